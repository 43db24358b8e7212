package guard

// Policy decides. It is not safe for concurrent use.
type Policy struct {
	cfg    Config
	around Surroundings
	level  Level
}

// New makes a policy in calm.
func New(c Config, s Surroundings) *Policy { return &Policy{cfg: c, around: s} }

// Step takes a reading and decides. Readings come in the order of At.
func (p *Policy) Step(r Reading) Decision { return Decision{Level: p.level} }

// Done tells what became of an action. Results of actions that take a while
// come between later steps.
func (p *Policy) Done(Result) {}

// SetSurroundings tells of a machine that has changed; SetConfig of a
// configuration that was read anew. Neither undoes anything by itself.
func (p *Policy) SetSurroundings(s Surroundings) { p.around = s }

// SetConfig replaces the configuration.
func (p *Policy) SetConfig(c Config) { p.cfg = c }

// Level returns the present level.
func (p *Policy) Level() Level { return p.level }

// Undo returns the actions that put everything back, in their order: for the
// end of a run. Lowering max below what the count allows is not among them.
func (p *Policy) Undo(r Reading) []Action { return nil }
