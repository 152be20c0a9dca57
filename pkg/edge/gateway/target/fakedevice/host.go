package fakedevice

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
	"arhat.dev/aranya/pkg/edge/stream"
)

// Host returns a Handler that acts like a small host. Commands:
//
//	cat            copies stdin to stdout until it ends
//	exit N         writes "bye" to stderr and exits with N
//	wait           writes "waiting" and runs until it is killed
//	show           writes the request as JSON
//	size           writes one terminal size
//	forbidden      is refused by the device's policy
//	break          ends the stream without a result
//
// An attach acts like cat, a log shows its request and can be followed, a dial goes to the loopback
// interface of the machine, and statistics are the given document. Any pod and container may be named,
// but those of AbsentPod are not found.
func Host(stats []byte) Handler {
	return func(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream) {
		if result := serve(ctx, req, s, stats); result != nil {
			_ = s.Finish(result) // an error means that the server is gone
		}
	}
}

// AbsentPod is the UID of a pod that the device does not have.
const AbsentPod = "absent"

// podOf is the UID of the pod that a request is about, if it is about one.
func podOf(req *edgeapi.OpenStream) string {
	switch r := req.GetRequest().(type) {
	case *edgeapi.OpenStream_Exec:
		return r.Exec.GetContainer().GetPodUid()
	case *edgeapi.OpenStream_Attach:
		return r.Attach.GetContainer().GetPodUid()
	case *edgeapi.OpenStream_Log:
		return r.Log.GetContainer().GetPodUid()
	case *edgeapi.OpenStream_Dial:
		return r.Dial.GetPodUid()
	}
	return ""
}

// serve returns nil to leave the stream without a result.
func serve(ctx context.Context, req *edgeapi.OpenStream, s *stream.Stream, stats []byte) *edgeapi.Result {
	if podOf(req) == AbsentPod {
		return &edgeapi.Result{Reason: "NotFound", Message: "pod " + AbsentPod + ": not found on this device"}
	}
	switch r := req.GetRequest().(type) {
	case *edgeapi.OpenStream_Exec:
		return serveCommand(ctx, r.Exec, s)
	case *edgeapi.OpenStream_Attach:
		return serveCommand(ctx, &edgeapi.Exec{Command: []string{"cat"}}, s)
	case *edgeapi.OpenStream_Log:
		return serveLog(ctx, r.Log, s)
	case *edgeapi.OpenStream_Dial:
		return serveDial(ctx, r.Dial, s)
	case *edgeapi.OpenStream_Stats:
		return output(s, stats)
	}
	return &edgeapi.Result{Reason: "BadRequest", Message: "unknown request"}
}

// output writes to STDOUT and succeeds.
func output(s *stream.Stream, data []byte) *edgeapi.Result {
	if s.Ready() != nil {
		return nil
	}
	if _, err := s.Writer(edgeapi.Channel_STDOUT).Write(data); err != nil {
		return nil
	}
	return &edgeapi.Result{}
}

func show(m proto.Message) []byte {
	data, err := protojson.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append(data, '\n')
}

func serveCommand(ctx context.Context, exec *edgeapi.Exec, s *stream.Stream) *edgeapi.Result {
	words := exec.GetCommand()
	if words[0] == "forbidden" {
		return &edgeapi.Result{Reason: "Forbidden", Message: "policy.exec of this device forbids it"}
	}
	if words[0] == "show" {
		return output(s, show(exec))
	}
	if s.Ready() != nil {
		return nil
	}
	switch words[0] {
	case "cat":
		if _, err := io.Copy(s.Writer(edgeapi.Channel_STDOUT), s.Reader(edgeapi.Channel_STDIN)); err != nil {
			return nil
		}
	case "exit":
		fmt.Fprint(s.Writer(edgeapi.Channel_STDERR), "bye")
		code, err := strconv.Atoi(words[1])
		if err != nil {
			return &edgeapi.Result{Reason: "BadRequest", Message: err.Error()}
		}
		return &edgeapi.Result{ExitCode: int32(code)}
	case "wait":
		fmt.Fprint(s.Writer(edgeapi.Channel_STDOUT), "waiting")
		<-ctx.Done()
		return nil
	case "size":
		size, ok := <-s.Resizes()
		if !ok {
			return nil
		}
		fmt.Fprintf(s.Writer(edgeapi.Channel_STDOUT), "%dx%d", size.GetWidth(), size.GetHeight())
	case "break":
		return nil
	}
	return &edgeapi.Result{}
}

func serveLog(ctx context.Context, log *edgeapi.Log, s *stream.Stream) *edgeapi.Result {
	if log.GetPath() == "/forbidden" {
		return &edgeapi.Result{Reason: "Forbidden", Message: "policy.log of this device forbids it"}
	}
	result := output(s, show(log))
	if log.GetPath() == "/broken" {
		return &edgeapi.Result{Reason: "InternalError", Message: "read /broken: input/output error"}
	}
	if log.GetFollow() {
		<-ctx.Done()
		return nil
	}
	return result
}

func serveDial(ctx context.Context, dial *edgeapi.Dial, s *stream.Stream) *edgeapi.Result {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(dial.GetPort()))))
	if err != nil {
		return &edgeapi.Result{Reason: "ServiceUnavailable", Message: err.Error()}
	}
	defer conn.Close()
	if s.Ready() != nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	peer := s.Conn()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if _, err := io.Copy(conn, peer); err == nil {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	_, err = io.Copy(peer, conn)
	_ = peer.CloseWrite()
	result := &edgeapi.Result{}
	if err != nil {
		result = &edgeapi.Result{Reason: "InternalError", Message: err.Error()}
	}
	_ = s.Finish(result) // an error means that the server is gone
	<-sent
	return nil
}
