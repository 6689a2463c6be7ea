"""Stage `restore`: maps filtered and sharpened place by place, from what their halves share there.

What is left out, and why. All that this room does to a map follows from its two half maps, whose difference tells the
noise: a method that has no such measure cannot say what it made up. So there is no

- blind deconvolution (Hirsch, Schölkopf and Habeck 2011), which fits a blur and a map together from one map: the local
  B-factor fits the blur from what both halves share, with its error;
- spherical deconvolution (Kishchenko and Leith 2014), which takes out the blur of wrong orientations as one that grows
  with the distance from the centre: local B-factors find such a growth where it is, and do not assume it;
- VISDEM (Spiegel, Duraisamy and Schröder 2015), which gives a map the histogram and radial amplitudes of random atoms:
  its grey values are then those of the model, also where the data show nothing;
- approximation by Gaussians (Jonić and others 2016), which smooths a map with a given error of approximation: Wiener's
  weight from the halves smooths it by the noise that was measured.

A user who wants one of them can run it on `half1.mrc` and `half2.mrc` alike and compare the results (`cryoloom
resolution`): what the halves still share is not made up.
"""
