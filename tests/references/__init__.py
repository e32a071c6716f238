"""Each method once more, one run at a time, written as its paper has it; they share nothing with the fast path."""
