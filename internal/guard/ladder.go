package guard

// Ladder returns the values, in rising order, that a guard may write to
// nf_conntrack_max which found before there: each half as much again as the one
// below, rounded up, none above ceiling. They follow from before alone, so that
// whoever cleans up after a guard that was killed can tell its values from
// somebody else's. Without a limit, 0, there is nothing to raise.
func Ladder(before, ceiling int64) []int64 {
	if before <= 0 {
		return nil
	}
	var steps []int64
	for v := before; ; {
		v += (v + 1) / 2
		if v > ceiling || v < 0 {
			return steps
		}
		steps = append(steps, v)
	}
}
