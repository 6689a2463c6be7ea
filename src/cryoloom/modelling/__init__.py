"""Stage `fit`: an atomic model laid into a map as a rigid body."""
