"""Stage `resolution`: where in the map, and along which directions, detail can be believed."""
