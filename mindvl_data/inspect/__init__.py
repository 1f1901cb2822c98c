"""What people look at: tables of a build, a manifest or a pack, as Rich renderables. Nothing here prints."""

REPORT = "report.html"
