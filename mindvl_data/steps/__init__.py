"""The steps of a build, pure work on one partition or one set; none imports another, the pipeline joins them."""
