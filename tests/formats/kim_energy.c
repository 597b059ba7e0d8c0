/* Energy (eV) and forces (eV/angstrom) that KIM gives for a cluster of silicon.

   Usage: kim_energy MODEL N, with 3 N coordinates (angstrom) on standard input. */

#include <stdio.h>
#include <stdlib.h>

#include "KIM_SimulatorHeaders.h"

static int n;
static int *lists;

static int neighbors(void const *const data, int const count, double const *const cutoffs, int const list,
                     int const atom, int *const number, int const **const found)
{
  (void)data, (void)count, (void)cutoffs, (void)list;
  *number = n - 1;
  *found = lists + atom * n;
  return 0;
}

int main(int argc, char **argv)
{
  KIM_Model *model;
  KIM_ComputeArguments *a;
  int accepted, supported, i, j, k;
  double energy;
  if (argc < 3) return 1;
  n = atoi(argv[2]);
  double *x = malloc(3 * n * sizeof(double)), *f = malloc(3 * n * sizeof(double));
  int *code = malloc(n * sizeof(int)), *own = malloc(n * sizeof(int));
  lists = malloc(n * n * sizeof(int));
  for (i = 0; i < 3 * n; ++i)
    if (scanf("%lf", x + i) != 1) return 2;
  if (KIM_Model_Create(KIM_NUMBERING_zeroBased, KIM_LENGTH_UNIT_A, KIM_ENERGY_UNIT_eV, KIM_CHARGE_UNIT_e,
                       KIM_TEMPERATURE_UNIT_K, KIM_TIME_UNIT_ps, argv[1], &accepted, &model)
      || !accepted)
    return 3;
  for (i = 0; i < n; ++i) {
    KIM_Model_GetSpeciesSupportAndCode(model, KIM_SPECIES_NAME_Si, &supported, code + i);
    own[i] = 1;
    for (j = 0, k = 0; j < n; ++j)
      if (j != i) lists[i * n + k++] = j;
  }
  if (KIM_Model_ComputeArgumentsCreate(model, &a)
      || KIM_ComputeArguments_SetArgumentPointerInteger(a, KIM_COMPUTE_ARGUMENT_NAME_numberOfParticles, &n)
      || KIM_ComputeArguments_SetArgumentPointerInteger(a, KIM_COMPUTE_ARGUMENT_NAME_particleSpeciesCodes, code)
      || KIM_ComputeArguments_SetArgumentPointerInteger(a, KIM_COMPUTE_ARGUMENT_NAME_particleContributing, own)
      || KIM_ComputeArguments_SetArgumentPointerDouble(a, KIM_COMPUTE_ARGUMENT_NAME_coordinates, x)
      || KIM_ComputeArguments_SetArgumentPointerDouble(a, KIM_COMPUTE_ARGUMENT_NAME_partialEnergy, &energy)
      || KIM_ComputeArguments_SetArgumentPointerDouble(a, KIM_COMPUTE_ARGUMENT_NAME_partialForces, f)
      || KIM_ComputeArguments_SetCallbackPointer(a, KIM_COMPUTE_CALLBACK_NAME_GetNeighborList,
                                                 KIM_LANGUAGE_NAME_c, (KIM_Function *)&neighbors, NULL)
      || KIM_Model_Compute(model, a))
    return 4;
  printf("%.17g\n", energy);
  for (i = 0; i < 3 * n; ++i) printf("%.17g\n", f[i]);
  return 0;
}
