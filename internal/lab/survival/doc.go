// Package survival measures what is left of a service when its
// connection-tracking table is attacked: how many new connections still
// succeed, how many that were open live, whether the administrator gets in, and
// what the defence itself does and costs.
//
// A run is a [Scenario] under a [Defence]. Each happens in namespaces of its
// own with real programs (nginx, sshd, bulk transfers), the attack coming from
// packet sockets beside the users, and gives one [Result]. Results are lines of
// JSON; [Table] makes the published table of them.
package survival
