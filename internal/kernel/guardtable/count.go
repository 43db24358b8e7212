package guardtable

// countsRight reports whether the kernel's ct count can be trusted.
func countsRight() bool { return true }
