// Package arch holds the test of the project's layers: which package may
// import what, and which may ask for time and chance. See docs/ARCHITECTURE.md.
package arch
