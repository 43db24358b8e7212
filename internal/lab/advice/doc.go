// Package advice puts the commands that people paste against a full table on
// trial: each scene is run with the kernel's own settings, with the commands as
// they are found, and with a plan of ctwarden, and the outcome is a table.
//
// Everything happens in guests with virtual time, so that minutes of traffic
// and hours of silence cost little and the limits of this machine stay alone.
// The machine of the scenes is a small one: limits and loads are a
// [Scale]th of the usual, times are whole.
package advice
