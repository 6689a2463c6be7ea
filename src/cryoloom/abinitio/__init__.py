"""A first map from particles alone: many cheap starts, judged against each other and by the data."""
