"""Stage `restore`: maps filtered and sharpened place by place, from what their halves share there."""
