package streaming

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/remotecommand"
	criremotecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// Subprotocols of exec and attach over WebSocket. From v4 on the error channel carries a Status; v5
// adds the signal that closes stdin.
const (
	v4Binary = "v4." + wsstream.ChannelWebSocketProtocol
	v4Base64 = "v4." + wsstream.Base64ChannelWebSocketProtocol
	v5Binary = "v5." + wsstream.ChannelWebSocketProtocol
)

var commandSubprotocols = []string{v5Binary, v4Binary, v4Base64, wsstream.ChannelWebSocketProtocol, wsstream.Base64ChannelWebSocketProtocol, ""}

// maxResizeMessage bounds the JSON of one terminal size, which takes about 30 bytes.
const maxResizeMessage = 4 << 10

func (s *Server) upgradeWebSocketCommand(w http.ResponseWriter, r *http.Request, opts Options, run CommandFunc) (serve func()) {
	conn := wsstream.NewConn(commandChannels(opts))
	conn.SetIdleTimeout(s.config.IdleTimeout)
	protocol, channels, err := conn.Open(w, r)
	if err != nil {
		// The client has its answer already.
		klog.FromContext(r.Context()).V(2).Info("Could not upgrade a WebSocket", "err", err)
		return nil
	}
	return func() {
		defer conn.Close()
		serveChannels(r.Context(), protocol, channels, opts, run)
	}
}

func serveChannels(ctx context.Context, protocol string, channels []io.ReadWriteCloser, opts Options, run CommandFunc) {
	streams := IO{TTY: opts.TTY}
	if opts.Stdin {
		streams.Stdin = channels[criremotecommand.StreamStdIn]
	}
	// An empty message tells clients that wait for a first one that the connection stands.
	first := channels[criremotecommand.StreamErr]
	if opts.Stderr {
		streams.Stderr = channels[criremotecommand.StreamStdErr]
		first = channels[criremotecommand.StreamStdErr]
	}
	if opts.Stdout {
		streams.Stdout = channels[criremotecommand.StreamStdOut]
		first = channels[criremotecommand.StreamStdOut]
	}
	if _, err := first.Write(nil); err != nil {
		return
	}
	if opts.TTY {
		sizes := newSizes()
		streams.Resize = sizes.c
		// It ends when the channel does, with the connection at the latest.
		go readSizes(channels[criremotecommand.StreamResize], sizes)
	}
	status := commandStatus(run(ctx, streams))
	asJSON := protocol == v4Binary || protocol == v4Base64 || protocol == v5Binary
	if err := writeStatus(channels[criremotecommand.StreamErr], asJSON, status); err != nil {
		klog.FromContext(ctx).V(4).Info("Could not report the end of a session to its client", "err", err)
	}
}

// channelConfigs are what commandChannels has returned for the 16 Options that there are: each session
// refers to one as long as it lasts.
var channelConfigs sync.Map

// commandChannels are the channels per subprotocol. Channels that were not asked for are ignored: an
// unread one would hold up the others.
func commandChannels(opts Options) map[string]wsstream.ChannelProtocolConfig {
	if configs, ok := channelConfigs.Load(opts); ok {
		return configs.(map[string]wsstream.ChannelProtocolConfig)
	}
	channel := func(wanted bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	channels := []wsstream.ChannelType{
		criremotecommand.StreamStdIn:  channel(opts.Stdin, wsstream.ReadChannel),
		criremotecommand.StreamStdOut: channel(opts.Stdout, wsstream.WriteChannel),
		criremotecommand.StreamStdErr: channel(opts.Stderr, wsstream.WriteChannel),
		criremotecommand.StreamErr:    wsstream.WriteChannel,
		criremotecommand.StreamResize: channel(opts.TTY, wsstream.ReadChannel),
	}
	configs := make(map[string]wsstream.ChannelProtocolConfig, len(commandSubprotocols))
	for _, protocol := range commandSubprotocols {
		binary := protocol != v4Base64 && protocol != wsstream.Base64ChannelWebSocketProtocol
		configs[protocol] = wsstream.ChannelProtocolConfig{Binary: binary, Channels: channels}
	}
	channelConfigs.Store(opts, configs)
	return configs
}

// readSizes decodes terminal sizes until the channel ends or is not understood.
func readSizes(r io.Reader, sizes sizes) {
	defer close(sizes.c)
	limited := &io.LimitedReader{R: r}
	decoder := json.NewDecoder(limited)
	for {
		limited.N = maxResizeMessage
		var size remotecommand.TerminalSize
		if err := decoder.Decode(&size); err != nil {
			// What else arrives must not hold up stdin.
			_, _ = io.Copy(io.Discard, r)
			return
		}
		sizes.put(size)
	}
}

// commandStatus says how a command ended, as the kubelet does.
func commandStatus(err error) *metav1.Status {
	if err == nil {
		return &metav1.Status{Status: metav1.StatusSuccess}
	}
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return &metav1.Status{
			Status: metav1.StatusFailure,
			Reason: criremotecommand.NonZeroExitCodeReason,
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{
				Type:    criremotecommand.ExitCodeCauseType,
				Message: strconv.Itoa(exit.ExitStatus()),
			}}},
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
		}
	}
	if apiStatus, ok := err.(apierrors.APIStatus); ok {
		status := apiStatus.Status()
		return &status
	}
	status := apierrors.NewInternalError(err).Status()
	return &status
}

// writeStatus reports the end on the error channel. Before the fourth version only failures were
// reported, as text.
func writeStatus(w io.Writer, asJSON bool, status *metav1.Status) error {
	if asJSON {
		data, err := json.Marshal(status)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	if status.Status == metav1.StatusSuccess {
		return nil
	}
	_, err := io.WriteString(w, status.Message)
	return err
}
