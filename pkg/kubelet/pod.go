package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/util/flushwriter"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	criremotecommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/cmd/util/podcmd"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/edge/gateway/target"
	"arhat.dev/aranya/pkg/streaming"
)

// maxRunOutput is how much output of a command /run returns.
const maxRunOutput = 4 << 20

func (k *Kubelet) servePod(w http.ResponseWriter, req *request, session gateway.Session) {
	if req.container != "" && !hasContainer(req.podObject, req.container) {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", req.container, req.pod), http.StatusNotFound)
		return
	}
	container := &target.Container{Pod: req.podObject, Name: req.container}
	switch req.action {
	case actionLogs:
		serveLogs(w, req, session, container)
	case actionExec:
		command := req.URL.Query()["command"]
		k.serveCommand(w, req, func(ctx context.Context, opts streaming.Options) (*target.Command, error) {
			if len(command) == 0 {
				return nil, apierrors.NewBadRequest("you must specify a command: one query parameter \"command\" per word")
			}
			return target.Exec(ctx, session, container, command, opts)
		})
	case actionAttach:
		k.serveCommand(w, req, func(ctx context.Context, opts streaming.Options) (*target.Command, error) {
			return target.Attach(ctx, session, container, opts)
		})
	case actionRun:
		serveRun(w, req, session, container)
	case actionPortForward:
		k.servePortForward(w, req, session)
	}
}

// serveCommand starts the command before it upgrades the request, so that what the device refuses is
// an HTTP error.
func (k *Kubelet) serveCommand(w http.ResponseWriter, req *request, start func(context.Context, streaming.Options) (*target.Command, error)) {
	parsed, err := criremotecommand.NewOptions(req.Request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	opts := streaming.Options{Stdin: parsed.Stdin, Stdout: parsed.Stdout, Stderr: parsed.Stderr, TTY: parsed.TTY}
	if err := k.config.Streaming.CheckCommand(req.Request, opts); err != nil {
		writeError(w, err)
		return
	}
	command, err := start(req.Context(), opts)
	if err != nil {
		writeError(w, err)
		return
	}
	defer command.Close()
	k.config.Streaming.ServeCommand(w, req.Request, opts, command.Run)
}

func (k *Kubelet) servePortForward(w http.ResponseWriter, req *request, session gateway.Session) {
	opts := &criportforward.V4Options{}
	if !wsstream.IsWebSocketRequestWithTunnelingProtocol(req.Request) {
		var err error
		if opts, err = criportforward.NewV4Options(req.Request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	if err := k.config.Streaming.CheckPortForward(req.Request, opts.Ports); err != nil {
		writeError(w, err)
		return
	}
	k.config.Streaming.ServePortForward(w, req.Request, streaming.PortForwardOptions{
		Name: "pod " + req.namespace + "/" + req.pod, Ports: opts.Ports,
	}, target.Dialer(session, target.Address{Pod: req.podObject}))
}

// serveRun runs a command without stdin and answers with its output.
func serveRun(w http.ResponseWriter, req *request, session gateway.Session, container *target.Container) {
	words := strings.Fields(req.URL.Query().Get("cmd"))
	if len(words) == 0 {
		http.Error(w, `you must specify a command in the query parameter "cmd"`, http.StatusBadRequest)
		return
	}
	command, err := target.Exec(req.Context(), session, container, words, streaming.Options{Stdout: true, Stderr: true})
	if err != nil {
		writeError(w, err)
		return
	}
	output := &boundedBuffer{limit: maxRunOutput}
	err = command.Run(req.Context(), streaming.IO{Stdout: output, Stderr: output})
	var exit utilexec.ExitError
	switch {
	case output.full():
		http.Error(w, fmt.Sprintf("the command wrote more than %d bytes: use exec", maxRunOutput), http.StatusInternalServerError)
	case errors.As(err, &exit):
		// As the kubelet: the output, and how it ended.
		http.Error(w, fmt.Sprintf("%s\ncommand terminated with exit code %d", output.bytes(), exit.ExitStatus()), http.StatusInternalServerError)
	case err != nil:
		writeError(w, err)
	default:
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(output.bytes()) // an error means that the client is gone
	}
}

func serveLogs(w http.ResponseWriter, req *request, session gateway.Session, container *target.Container) {
	opts, err := parseLogOptions(req.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if errs := opts.Validate(); len(errs) > 0 {
		http.Error(w, errs.ToAggregate().Error(), http.StatusUnprocessableEntity)
		return
	}
	r, err := target.Log(req.Context(), session, container, opts.Request(time.Now()))
	if err != nil {
		writeError(w, err)
		return
	}
	defer r.Close()
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	out := flushwriter.Wrap(w)
	// The first flush tells a client of a quiet log that it is being followed.
	if _, err := out.Write(nil); err != nil {
		return
	}
	if _, err := io.Copy(out, r); err != nil && !errors.Is(err, context.Canceled) {
		klog.FromContext(req.Context()).V(2).Info("A container log ended early", "pod", klog.KObj(req.podObject), "container", req.container, "err", err)
		// It is too late for a code. The kubelet, too, ends the body with the text of the error.
		fmt.Fprintln(out, err)
	}
}

// parseLogOptions parses the query parameters of /containerLogs.
func parseLogOptions(query url.Values) (*target.LogOptions, error) {
	p := &queryParser{query: query}
	opts := &target.LogOptions{
		Follow:       p.bool("follow"),
		Previous:     p.bool("previous"),
		Timestamps:   p.bool("timestamps"),
		SinceSeconds: p.int("sinceSeconds"),
		LimitBytes:   p.int("limitBytes"),
	}
	// "tail" is what "tailLines" was called once; "all" is the same as none.
	switch tail := query.Get("tail"); tail {
	case "":
		opts.TailLines = p.int("tailLines")
	case "all":
	default:
		opts.TailLines = p.int("tail")
	}
	if text := query.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			p.fail("sinceTime", text, err)
		}
		opts.SinceTime = &metav1.Time{Time: t}
	}
	if stream := query.Get("stream"); stream != "" && stream != corev1.LogStreamAll {
		p.fail("stream", stream, errors.New("the output streams of a container on an edge device cannot be told apart, use All"))
	}
	return opts, p.err
}

// queryParser parses query parameters and remembers the first that is wrong.
type queryParser struct {
	query url.Values
	err   error
}

func (p *queryParser) bool(name string) bool {
	text := p.query.Get(name)
	if text == "" {
		// A parameter without a value is set, as for kube-apiserver.
		return p.query.Has(name)
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		p.fail(name, text, err)
	}
	return value
}

func (p *queryParser) int(name string) *int64 {
	text := p.query.Get(name)
	if text == "" {
		return nil
	}
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		p.fail(name, text, err)
	}
	return &value
}

func (p *queryParser) fail(name, text string, err error) {
	if p.err == nil {
		p.err = fmt.Errorf("unable to decode the query parameter %s=%q: %w", name, text, err)
	}
}

func hasContainer(pod *corev1.Pod, name string) bool {
	container, _ := podcmd.FindContainerByName(pod, name)
	return container != nil
}
