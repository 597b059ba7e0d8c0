"""Files of other programs: SNAP, ChIMES, KIM, DUNN, setfl, Amp."""
