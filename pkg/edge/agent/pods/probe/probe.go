// Package probe asks a container how it is, once: by exec, HTTP, TCP or gRPC. When it is asked, and what follows from
// the answers (a restart, a condition), is decided in package pods.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/pkg/edge/agent/pods/criconfig"
)

// User agents, as servers know them from the kubelet.
const (
	userAgent     = "kube-probe/1.37"
	HookUserAgent = "kube-lifecycle/1.37"
)

const (
	// maxOutput bounds what is read of an answer, and told of it.
	maxOutput = 10 << 10
	// maxRedirects is how often a probe follows the server to another path.
	maxRedirects = 10
)

// Target is what a probe is run against.
type Target struct {
	ContainerID string
	Container   *v1.Container
	// PodIP is where its ports are.
	PodIP string
}

// ExecFunc runs a command in a container and returns its output.
type ExecFunc func(ctx context.Context, containerID string, command []string, timeout time.Duration) ([]byte, error)

// Run asks once. A nil error is a success, with a warning if the user should know how it came about;
// *Failure is the container's own no; other errors mean that it could not be asked.
func Run(ctx context.Context, exec ExecFunc, handler *v1.ProbeHandler, target Target, timeout time.Duration) (warning string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case handler.Exec != nil:
		return "", runExec(ctx, exec, handler.Exec.Command, target, timeout)
	case handler.HTTPGet != nil:
		return runHTTP(ctx, handler.HTTPGet, target)
	case handler.TCPSocket != nil:
		return "", runTCP(ctx, handler.TCPSocket, target)
	case handler.GRPC != nil:
		return "", runGRPC(ctx, handler.GRPC, target)
	}
	return "", errors.New("it has no handler")
}

// Failure is a probe that was answered with no.
type Failure struct{ Output string }

func (f *Failure) Error() string { return f.Output }

func runExec(ctx context.Context, exec ExecFunc, command []string, target Target, timeout time.Duration) error {
	data, err := exec(ctx, target.ContainerID, criconfig.ExpandStatic(command, target.Container.Env), timeout)
	output := string(data[:min(len(data), maxOutput)])
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return &Failure{Output: output}
	case status.Code(err) == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded), strings.Contains(err.Error(), "timed out"):
		return &Failure{Output: fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(command, " "), timeout)}
	}
	return err
}

// resolvePort resolves a port by number or by name.
func resolvePort(port intstr.IntOrString, c *v1.Container) (int, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if number <= 0 || number > 65535 {
		return 0, fmt.Errorf("invalid port %q", port.String())
	}
	return number, nil
}

// Request makes the HTTP request of an action.
func Request(ctx context.Context, action *v1.HTTPGetAction, target Target, userAgent string) (*http.Request, error) {
	port, err := resolvePort(action.Port, target.Container)
	if err != nil {
		return nil, err
	}
	host := action.Host
	if host == "" {
		host = target.PodIP
	}
	if host == "" {
		return nil, errors.New("the pod has no address")
	}
	scheme := strings.ToLower(string(action.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(action.Path)
	if err != nil {
		u = &url.URL{Path: action.Path}
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range action.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	req.Host = req.Header.Get("Host") // or else that of the URL
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", userAgent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept") // it is to be left out
	}
	return req, nil
}

func runHTTP(ctx context.Context, action *v1.HTTPGetAction, target Target) (string, error) {
	req, err := Request(ctx, action, target, userAgent)
	if err != nil {
		return "", err
	}
	code, body, err := Do(req, action.Protocol)
	if err != nil {
		return "", &Failure{Output: err.Error()}
	}
	if code < http.StatusOK || code >= http.StatusBadRequest {
		return "", &Failure{Output: fmt.Sprintf("HTTP probe failed with statuscode: %d", code)}
	}
	if code >= http.StatusMultipleChoices {
		return "Probe terminated redirects, Response body: " + body, nil
	}
	return "", nil
}

// Do sends a request on a connection of its own. Certificates are not checked, as the kubelet does not:
// the answer comes from the pod's own address. HTTP/2 is spoken if it is agreed on over TLS, and without TLS by prior
// knowledge.
func Do(req *http.Request, protocol *v1.HTTPProtocol) (code int, body string, err error) {
	transport := &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		Proxy:              nil,
		ForceAttemptHTTP2:  true,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	defer transport.CloseIdleConnections()
	if protocol != nil && *protocol == v1.HTTPProtocolHTTP2 {
		transport.Protocols = &http.Protocols{}
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != req.URL.Hostname() {
			return http.ErrUseLastResponse // elsewhere is not the container: its answer counts as it is
		}
		if len(via) >= maxRedirects {
			return fmt.Errorf("stopped after %d redirects", maxRedirects)
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	return resp.StatusCode, string(data), err
}

func runTCP(ctx context.Context, action *v1.TCPSocketAction, target Target) error {
	port, err := resolvePort(action.Port, target.Container)
	if err != nil {
		return err
	}
	host := action.Host
	if host == "" {
		host = target.PodIP
	}
	if host == "" {
		return errors.New("the pod has no address")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return &Failure{Output: err.Error()}
	}
	return conn.Close()
}

func runGRPC(ctx context.Context, action *v1.GRPCAction, target Target) error {
	if target.PodIP == "" {
		return errors.New("the pod has no address")
	}
	address := net.JoinHostPort(target.PodIP, strconv.Itoa(int(action.Port)))
	transport := insecure.NewCredentials()
	if action.Mode != nil && *action.Mode == v1.GRPCProbeModeTLS {
		transport = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // as Do
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithUserAgent(userAgent), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(transport))
	if err != nil {
		return err
	}
	defer conn.Close()
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	switch {
	case status.Code(err) == codes.Unimplemented:
		return &Failure{Output: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %v", err)}
	case status.Code(err) == codes.DeadlineExceeded:
		return &Failure{Output: fmt.Sprintf("timeout: failed to connect service %q within the deadline: %v", address, err)}
	case err != nil:
		return &Failure{Output: fmt.Sprintf("error: health rpc probe failed: %v", err)}
	case resp.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return &Failure{Output: fmt.Sprintf("service unhealthy (responded with %q)", resp.GetStatus())}
	}
	return nil
}
