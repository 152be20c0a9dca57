// Package api is the wire protocol between aranya and its devices: edge.proto, the code generated
// from it, the limits of its messages, what the two ends announce about them, and nothing else. See edge.proto for what
// the messages mean.
package api
