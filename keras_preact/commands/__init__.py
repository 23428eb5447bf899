"""The verbs of the command line: one verb = one call of a public function."""
