package streaming

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	criremotecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// maxPorts bounds the ports that a WebSocket port-forward may name: each costs two channels, and a
// message names its channel in one byte.
const maxPorts = 100

// CheckCommand says whether r can become an exec or attach session, without any effect. Callers ask
// before they start anything on a device. Errors are API statuses.
func (s *Server) CheckCommand(r *http.Request, opts Options) error {
	if !opts.Stdin && !opts.Stdout && !opts.Stderr {
		return apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	if opts.TTY && opts.Stderr {
		return apierrors.NewBadRequest("tty and stderr cannot be used together: a terminal has one output, ask for stdout")
	}
	if wsstream.IsWebSocketRequest(r) {
		if err := checkSubprotocols(r, commandSubprotocols); err != nil {
			return err
		}
	} else if err := checkSPDY(r, criremotecommand.SupportedStreamingProtocols); err != nil {
		return err
	}
	return s.available()
}

// CheckPortForward says whether r can become a port-forward session, without any effect. Errors are
// API statuses.
func (s *Server) CheckPortForward(r *http.Request, ports []int32) error {
	switch {
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		if err := checkSubprotocols(r, []string{criportforward.WebsocketsSPDYTunnelingPortForwardV1}); err != nil {
			return err
		}
	case wsstream.IsWebSocketRequest(r):
		if err := checkSubprotocols(r, portForwardSubprotocols); err != nil {
			return err
		}
		if err := checkPorts(ports); err != nil {
			return err
		}
	default:
		if err := checkSPDY(r, criportforward.SupportedProtocols); err != nil {
			return err
		}
	}
	return s.available()
}

func checkPorts(ports []int32) error {
	if len(ports) == 0 {
		return apierrors.NewBadRequest("you must specify at least 1 port: this WebSocket protocol names them in the request")
	}
	if len(ports) > maxPorts {
		return apierrors.NewBadRequest(fmt.Sprintf("%d ports are too many for one request, use at most %d", len(ports), maxPorts))
	}
	for _, port := range ports {
		if port < 1 || port > 65535 {
			return apierrors.NewBadRequest(fmt.Sprintf("port %d is not between 1 and 65535", port))
		}
	}
	return nil
}

// checkSPDY checks what the SPDY upgrade needs.
func checkSPDY(r *http.Request, supported []string) error {
	if !httpstream.IsUpgradeRequest(r) || !strings.Contains(strings.ToLower(r.Header.Get(httpstream.HeaderUpgrade)), strings.ToLower(spdy.HeaderSpdy31)) {
		return apierrors.NewBadRequest("Upgrade request required: use SPDY/3.1 or WebSocket")
	}
	return checkOffer(headerValues(r, httpstream.HeaderProtocolVersion), supported)
}

// checkSubprotocols checks the WebSocket subprotocols on offer. None at all means the oldest one,
// where there is one.
func checkSubprotocols(r *http.Request, supported []string) error {
	offered := headerValues(r, wsstream.WebSocketProtocolHeader)
	if len(offered) == 0 {
		offered = []string{""}
	}
	return checkOffer(offered, supported)
}

func checkOffer(offered, supported []string) error {
	for _, protocol := range offered {
		if slices.Contains(supported, protocol) {
			return nil
		}
	}
	return apierrors.NewBadRequest(fmt.Sprintf("unable to negotiate protocol: client supports %q, server accepts %q", offered, supported))
}

func headerValues(r *http.Request, header string) []string {
	var values []string
	for _, line := range r.Header.Values(header) {
		for value := range strings.SplitSeq(line, ",") {
			if value = strings.TrimSpace(value); value != "" {
				values = append(values, value)
			}
		}
	}
	return values
}
