package cli

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/kubectl/pkg/cmd/exec"
)

// execute runs a session. Input that nobody types may wait for the device for longer than a minute. Over WebSocket
// client-go's heartbeat waits behind it and ends the session then, so it goes by SPDY, if that passes on the way.
func execute(ctx context.Context, target *url.URL, config *rest.Config, o remotecommand.StreamOptions) error {
	if o.Stdin != nil && !o.Tty {
		if passed, err := executeSPDY(ctx, target, config, o); passed {
			return err
		}
	}
	return (&exec.DefaultRemoteExecutor{}).ExecuteWithContext(ctx, target, config, o.Stdin, o.Stdout, o.Stderr, o.Tty, o.TerminalSizeQueue)
}

// executeSPDY also says whether the request has passed on the way to the API server.
func executeSPDY(ctx context.Context, target *url.URL, config *rest.Config, o remotecommand.StreamOptions) (passed bool, err error) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return true, err
	}
	way := &spdyWay{RoundTripper: transport}
	executor, err := remotecommand.NewSPDYExecutorForTransports(way, upgrader, http.MethodPost, target)
	if err != nil {
		return true, err
	}
	err = executor.StreamWithContext(ctx, o)
	return !way.closed, err
}

// spdyWay tells what something on the way may have refused from what the API server has.
type spdyWay struct {
	http.RoundTripper
	closed bool
}

// RoundTrip implements http.RoundTripper. What breaks the connection may do so because of what it does not know: the
// command may have begun by then, and is run again. Other errors would come again. An API server that does not see that
// an upgrade was asked for, because that was lost on the way, answers that it is a bad request.
func (s *spdyWay) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := s.RoundTripper.RoundTrip(request)
	if err != nil {
		s.closed = utilnet.IsProbableEOF(err) || utilnet.IsConnectionReset(err)
	} else if response.StatusCode != http.StatusSwitchingProtocols {
		status := strings.HasPrefix(response.Header.Get("Content-Type"), "application/json")
		s.closed = !status || response.StatusCode == http.StatusBadRequest
	}
	return response, err
}
