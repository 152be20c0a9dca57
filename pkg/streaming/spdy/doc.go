// Package spdy is the server's end of SPDY/3.1, of which Kubernetes' clients use the framing: streams
// that the client opens, with headers, data, half-close and reset. github.com/moby/spdystream, which is
// at the other end, serves as well, but takes about a megabyte and twelve goroutines per connection, most
// of it for compressing the headers of replies, which have none. This takes one goroutine, which reads, and
// next to nothing while nothing comes.
//
// What the streams mean does not belong here, nor how a connection is upgraded to SPDY, nor a client.
package spdy
