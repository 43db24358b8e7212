package ct

// Counters are the kernel's per-CPU connection-tracking counters of one
// namespace, summed. They are 32 bits wide in the kernel and wrap: subtract
// two readings with [Counters.Sub]. The comments say what each counts in
// kernels from 4.9 on; several names promise something else.
type Counters struct {
	Found         uint32 // NAT tuple collisions; every successful lookup before 4.9
	Invalid       uint32 // packets that could not be tracked
	Insert        uint32 // entries made through ctnetlink; every confirmed entry before 4.9
	InsertFailed  uint32 // lost clashes, chains too long, dying at confirmation
	Drop          uint32 // packets refused: table full, memory, lost clashes
	EarlyDrop     uint32 // entries evicted by the packet path; those of gc count nowhere
	Error         uint32 // unusable ICMP errors: icmp_error in /proc
	SearchRestart uint32
	ClashResolve  uint32 // 5.10 and later; column clashres in /proc
	ChainTooLong  uint32 // 5.15 and later; column chainlength in /proc
	ExpectNew     uint32 // /proc only
	ExpectCreate  uint32 // /proc only
	ExpectDelete  uint32 // /proc only

	// Real up to 4.8, constant 0 later; Ignore real up to 5.9.
	Searched, New, Delete, DeleteList, Ignore uint32

	// Has says which of the counters above the kernel offered.
	Has CounterSet
}

// CounterSet is a set of counters.
type CounterSet uint32

// Members of a CounterSet, one for each field of [Counters].
const (
	CounterFound CounterSet = 1 << iota
	CounterInvalid
	CounterInsert
	CounterInsertFailed
	CounterDrop
	CounterEarlyDrop
	CounterError
	CounterSearchRestart
	CounterClashResolve
	CounterChainTooLong
	CounterExpectNew
	CounterExpectCreate
	CounterExpectDelete
	CounterSearched
	CounterNew
	CounterDelete
	CounterDeleteList
	CounterIgnore
)

// counterNames follows the order of the CounterSet constants; the names are
// those of conntrack -S and of /proc where it has one.
var counterNames = [...]string{"found", "invalid", "insert", "insert_failed", "drop",
	"early_drop", "icmp_error", "search_restart", "clash_resolve", "chaintoolong",
	"expect_new", "expect_create", "expect_delete", "searched", "new", "delete",
	"delete_list", "ignore"}

func (c *Counters) fields() [18]*uint32 {
	return [18]*uint32{&c.Found, &c.Invalid, &c.Insert, &c.InsertFailed, &c.Drop,
		&c.EarlyDrop, &c.Error, &c.SearchRestart, &c.ClashResolve, &c.ChainTooLong,
		&c.ExpectNew, &c.ExpectCreate, &c.ExpectDelete, &c.Searched, &c.New, &c.Delete,
		&c.DeleteList, &c.Ignore}
}

// Add adds another CPU's counters. The set becomes the union.
func (c *Counters) Add(o Counters) {
	of := o.fields()
	for i, p := range c.fields() {
		*p += *of[i]
	}
	c.Has |= o.Has
}

// Sub returns the growth since an earlier reading, right across one wrap. Use
// it for each CPU by itself where the readings may be far apart.
func (c Counters) Sub(earlier Counters) Counters {
	r := Counters{Has: c.Has & earlier.Has}
	rf, cf, ef := r.fields(), c.fields(), earlier.fields()
	for i := range rf {
		*rf[i] = *cf[i] - *ef[i]
	}
	return r
}

// All calls yield with the name and value of each counter that the kernel
// offered, in a fixed order.
func (c *Counters) All(yield func(name string, value uint32) bool) {
	for i, p := range c.fields() {
		if c.Has&(1<<i) != 0 && !yield(counterNames[i], *p) {
			return
		}
	}
}

// SetByName stores a counter under its name in conntrack -S or in the header
// of /proc/net/stat/nf_conntrack of any version. It reports whether the name
// is known.
func (c *Counters) SetByName(name string, v uint32) bool {
	switch name {
	case "clashres":
		name = "clash_resolve"
	case "chainlength":
		name = "chaintoolong"
	case "error":
		name = "icmp_error"
	}
	for i, n := range counterNames {
		if n == name {
			*c.fields()[i] = v
			c.Has |= 1 << i
			return true
		}
	}
	return false
}
