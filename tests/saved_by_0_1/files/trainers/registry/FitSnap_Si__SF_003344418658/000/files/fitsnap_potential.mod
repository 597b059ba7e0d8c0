# LAMMPS, units metal: include fitsnap_potential.mod
pair_style snap
pair_coeff * * fitsnap_potential.snapcoeff fitsnap_potential.snapparam Si
