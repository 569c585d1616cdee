"""Reports on validation runs: data frames in, a terminal table, Markdown and figures out."""
