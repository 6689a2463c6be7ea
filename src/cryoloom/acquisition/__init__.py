"""Stage `optics-groups`: optics groups from the beam shifts that the microscope recorded."""
