// Package clitest runs the program as a user does, in namespaces of the
// laboratory, processes and all.
package clitest
