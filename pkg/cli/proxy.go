package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/kubectl/pkg/proxy"
	netutils "k8s.io/utils/net"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// defaultAcceptHosts are those of kubectl proxy, whose filter sees IPv6 addresses without brackets if there is a port.
const defaultAcceptHosts = proxy.DefaultHostAcceptRE + ",^::1$"

func newProxyCommand(c *client) *cobra.Command {
	var address, scheme, acceptHosts string
	var port int
	cmd := &cobra.Command{
		Use:   "proxy DEVICE REMOTE_PORT [--port LOCAL_PORT]",
		Short: "Serve a device's HTTP port locally",
		Long: `Serve an HTTP port of a device locally, through the subresource edgedevices/proxy.

Unlike port-forward it speaks HTTP: each request is authorized and audited by itself. Other HTTP clients of
the cluster's API can use the same subresource, except that kube-apiserver refuses answers that redirect:
this command hands them on.

Requests are made with your credential. As pages of other sites could have your browser make some, only hosts
that match --accept-hosts are served, and no request whose Origin is another host.`,
		Example: `  # The web interface on port 8080 of the device at http://127.0.0.1:9000
  kubectl edge proxy device-1 8080 --port 9000`,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     c.completeDevices,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("expected the name of a device and a port; see 'kubectl edge proxy -h'")
			}
			remotePort, err := netutils.ParsePort(args[1], false)
			if err != nil {
				return fmt.Errorf("%q is not a port: give a number from 1 to 65535", args[1])
			}
			if scheme != "http" && scheme != "https" {
				return fmt.Errorf("--scheme must be http or https, not %q", scheme)
			}
			hosts, err := proxy.MakeRegexpArray(acceptHosts)
			if err != nil {
				return fmt.Errorf("--accept-hosts: %w", err)
			}
			handler, err := c.proxyHandler(scheme, args[0], uint16(remotePort), hosts)
			if err != nil {
				return err
			}
			listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.Out, "Starting to serve on %s\n", listener.Addr())
			return serve(listener, handler)
		},
	}
	cmd.Flags().StringVar(&address, "address", "127.0.0.1", "The IP address on which to serve")
	cmd.Flags().IntVarP(&port, "port", "p", 8001, "The port on which to serve. Set to 0 to pick a random port.")
	cmd.Flags().StringVar(&acceptHosts, "accept-hosts", defaultAcceptHosts,
		"Regular expressions, separated by commas, for the hosts (without the port) that requests may name. To be extended with --address.")
	cmd.Flags().StringVar(&scheme, "scheme", "http", "Scheme that the device's port speaks: http or https")
	return cmd
}

// proxyHandler hands requests for any path to the same path behind the proxy subresource. The Host must be one of
// hosts: a name that a page's owner has resolve to this address is none.
func (c *client) proxyHandler(scheme, device string, port uint16, hosts []*regexp.Regexp) (http.Handler, error) {
	device, err := deviceName(device)
	if err != nil {
		return nil, err
	}
	target := fmt.Sprintf("%s:%s:%d", scheme, device, port)
	request, err := c.subresource(http.MethodGet, target, "proxy", &v1alpha1.EdgeDeviceProxyOptions{})
	if err != nil {
		return nil, err
	}
	config, err := c.config()
	if err != nil {
		return nil, err
	}
	config.Host = request.URL().String()
	config.Wrap(func(transport http.RoundTripper) http.RoundTripper { return restoreLocation{transport} })
	filter := &proxy.FilterServer{AcceptPaths: proxy.MakeRegexpArrayOrDie(proxy.DefaultPathAcceptRE), AcceptHosts: hosts}
	const keepalive = 0 // the system's default
	handler, err := proxy.NewProxyHandler("/", filter, config, keepalive, true)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !sameOrigin(r) {
			http.Error(w, "pages of other origins may not use this proxy", http.StatusForbidden)
			return
		}
		// The request is made anew with the user's credential; a browser's must not reach the cluster.
		r.Header.Del("Authorization")
		r.Header.Del("Origin")
		r.Header.Set(v1alpha1.ProxyHostHeader, r.Host)
		handler.ServeHTTP(w, r)
	}), nil
}

// restoreLocation has answers redirect as the device wants it. The browser follows, without the user's credential.
type restoreLocation struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l restoreLocation) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := l.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	text := response.Header.Get(v1alpha1.ProxyLocationHeader)
	if text == "" {
		return response, nil
	}
	response.Header.Del(v1alpha1.ProxyLocationHeader)
	if location, err := url.Parse(text); err == nil && location.Host == r.Header.Get(v1alpha1.ProxyHostHeader) {
		location.Scheme, location.Host = "", "" // which may be https: that of the device's port, not of this one
		text = location.String()
	}
	response.Header.Set("Location", text)
	return response, nil
}

// sameOrigin tells whether a request does not say that it is made by a page of another host. Browsers say so of all but
// plain GETs.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	page, err := url.Parse(origin)
	return err == nil && strings.EqualFold(page.Host, r.Host)
}

// serve serves until interrupted.
func serve(listener net.Listener, handler http.Handler) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
