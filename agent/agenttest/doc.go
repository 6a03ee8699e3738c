// Package agenttest holds what tests of the agent, its parts and its programs share: a Puller in memory that fails the test
// when it is used as the real one must not be, a log that can be asked, and golden files.
package agenttest
