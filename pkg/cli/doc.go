// Package cli is the kubectl plugin "kubectl edge": what kubectl does with pods (exec, attach, cp, logs,
// port-forward, proxy, top), done with devices through the subresources of EdgeDevice, and enrolment
// tokens. Terminals, streaming and proxying are kubectl's own packages; here are the commands, which way a
// stream is tried first, and how files are copied.
package cli
