package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/pkg/controller"
	"arhat.dev/aranya/pkg/controller/queue"
	"arhat.dev/aranya/pkg/edge/gateway"
	"arhat.dev/aranya/pkg/generated/clientset/versioned"
	"arhat.dev/aranya/pkg/generated/informers/externalversions"
	"arhat.dev/aranya/pkg/kubelet"
	"arhat.dev/aranya/pkg/registry/edgedevice"
	"arhat.dev/aranya/pkg/registry/edgedevice/direct"
	"arhat.dev/aranya/pkg/streaming"
)

// stopTimeout is how long sessions and controllers may take to end once the server is told to stop. Tests
// have less patience.
var stopTimeout = 20 * time.Second

// sessionTimeout is how much of that sessions may take. Then they are cut: a client that does not read
// what it is sent would never hear why they end.
const sessionTimeout = 3 * time.Second

// errShutdown is what users are told whose sessions end with the server.
var errShutdown = errors.New("aranya-apiserver is shutting down")

// Server is aranya-apiserver.
type Server struct {
	Generic *genericapiserver.GenericAPIServer

	config      *ExtraConfig
	controllers *controller.Controllers
	authority   *gateway.Authority
	gateway     *gateway.Gateway
	kubelet     *kubelet.Kubelet
	streaming   *streaming.Server
	events      record.EventBroadcaster
	ready       *readiness
	parts       parts
	stopErr     error // of preShutdown, for Run
}

type completedConfig struct {
	Generic genericapiserver.CompletedConfig
	Extra   *ExtraConfig
}

// CompletedConfig can only be made by Config.Complete.
type CompletedConfig struct {
	*completedConfig
}

// Complete fills in what is derived from other fields.
func (c *Config) Complete() CompletedConfig {
	return CompletedConfig{&completedConfig{Generic: c.Generic.Complete(), Extra: &c.Extra}}
}

// New makes a server that serves nothing until Run. It waits for the main cluster if that is not there
// yet. The listeners are closed if it fails.
func (c CompletedConfig) New(ctx context.Context) (server *Server, err error) {
	defer func() {
		if err != nil {
			closeListener(c.Extra.GatewayListener)
			closeListener(c.Extra.KubeletListener)
			closeListener(c.Generic.SecureServing.Listener)
		}
	}()
	s := &Server{
		config:    c.Extra,
		ready:     &readiness{},
		streaming: streaming.NewServer(streaming.Config{}),
		events:    record.NewBroadcaster(record.WithContext(context.WithoutCancel(ctx))),
	}
	devices, err := edgedevice.NewStorage(scheme.Scheme, c.Generic.RESTOptionsGetter)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			devices.EdgeDevice.Destroy()
		}
	}()
	edge, err := c.directClient(devices)
	if err != nil {
		return nil, err
	}
	edgeInformers := externalversions.NewSharedInformerFactoryWithOptions(edge, 0, externalversions.WithTransform(controller.SlimDevice))
	if err := s.addControllers(c, edge, edgeInformers); err != nil {
		return nil, err
	}
	if err := s.addGateway(ctx, edge, edgeInformers); err != nil {
		return nil, err
	}
	if err := s.addKubelet(c); err != nil {
		return nil, err
	}
	s.ready.devicesSynced = s.controllers.HasSynced
	s.ready.callersKnown = func() bool {
		proxy := c.Generic.Authentication.RequestHeaderConfig
		if proxy == nil {
			return true // by configuration
		}
		_, ok := proxy.CAContentProvider.VerifyOptions()
		return ok
	}
	if s.Generic, err = c.Generic.New("aranya-apiserver", genericapiserver.NewEmptyDelegate()); err != nil {
		return nil, fmt.Errorf("set up the API server: %w", err)
	}
	if err = s.installAPI(c, devices); err == nil {
		err = s.addHooks()
	}
	if err != nil {
		s.Generic.Destroy()
		return nil, err
	}
	return s, nil
}

// directClient is a client of our own API that acts as the server itself. Nothing but priority and
// fairness limits it, from which it is exempt.
func (c CompletedConfig) directClient(devices *edgedevice.Storage) (*direct.Client, error) {
	config := restclient.CopyConfig(c.Generic.LoopbackClientConfig)
	config.QPS = -1
	config.UserAgent = userAgent()
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for our own API: %w", err)
	}
	return direct.New(client, devices), nil
}

func (s *Server) addControllers(c CompletedConfig, edge versioned.Interface, informers externalversions.SharedInformerFactory) (err error) {
	s.controllers, err = controller.New(controller.Config{
		Kube:          c.Extra.Kube,
		EventClients:  c.Extra.EventClients,
		Leases:        c.Extra.Leases,
		Edge:          edge,
		EdgeInformers: informers,
		NodeAddress:   c.Extra.NodeAddress.String(),
		KubeletPort:   portOf(c.Extra.KubeletListener),
		GatewayPort:   portOf(c.Extra.GatewayListener),
		Replica:       c.Extra.ReplicaName,

		ReconnectGrace: c.Extra.ReconnectGrace,
	})
	return err
}

func (s *Server) addGateway(ctx context.Context, edge versioned.Interface, informers externalversions.SharedInformerFactory) error {
	enrolled := func(ctx context.Context) ([]types.NamespacedName, error) { return enrolledDevices(ctx, edge) }
	err := retry(ctx, "the device CA", func(ctx context.Context) (err error) {
		s.authority, err = gateway.LoadOrCreateAuthority(ctx, s.config.Kube, s.config.Namespace, enrolled)
		return err
	})
	if err != nil {
		return err
	}
	s.gateway, err = gateway.New(gateway.Config{
		Listener:  s.config.GatewayListener,
		Authority: s.authority,
		Devices:   s.controllers.Directory(),
		Handler:   s.controllers.Handler(),
		Replica:   s.config.ReplicaName,
		Names:     hosts(s.config.GatewayAddresses),
		ParkAfter: s.config.ParkAfter,

		Certificates:  s.controllers.Certificate,
		IdentityInUse: s.controllers.IdentityInUse,
		Refused:       s.controllers.Refused,
	})
	if err != nil {
		return err
	}
	s.controllers.SetDisconnect(s.gateway.Disconnect)
	s.controllers.SetGateway(s.gateway)
	_, err = informers.Aranya().V1alpha1().EdgeDevices().Informer().AddEventHandler(cutLinks{s.gateway})
	return err
}

// cutLinks tells the gateway of devices that are deleted or re-keyed.
type cutLinks struct{ gateway *gateway.Gateway }

var _ cache.ResourceEventHandler = cutLinks{}

func (c cutLinks) OnAdd(obj any, _ bool) { c.changed(obj) }
func (c cutLinks) OnUpdate(_, obj any)   { c.changed(obj) }
func (c cutLinks) OnDelete(obj any) {
	if ed, ok := queue.Deleted(obj).(*v1alpha1.EdgeDevice); ok {
		c.gateway.DeviceDeleted(gateway.DeviceOf(ed))
	}
}

func (c cutLinks) changed(obj any) {
	if ed, ok := obj.(*v1alpha1.EdgeDevice); ok {
		c.gateway.DeviceChanged(ed.Namespace, ed.Name)
	}
}

// addHooks has the parts start when the API is served and stop before it is not: they use it.
func (s *Server) addHooks() error {
	if err := s.Generic.AddReadyzChecks(s.ready.checks()...); err != nil {
		return err
	}
	if err := s.Generic.AddPostStartHook("start-aranya", func(hook genericapiserver.PostStartHookContext) error {
		s.startParts(hook)
		return nil
	}); err != nil {
		return err
	}
	return s.Generic.AddPreShutdownHook("stop-aranya", s.preShutdown)
}

// preShutdown leaves its error to Run: that of a hook would end the shutdown before requests and audit have drained.
func (s *Server) preShutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.stopErr = s.stopParts(ctx, sessionTimeout)
	return nil
}

// stopParts stops what startParts started. First the users' sessions, which end with a reason of their own
// instead of that of the link.
func (s *Server) stopParts(ctx context.Context, sessionTimeout time.Duration) error {
	sessions, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	if err := s.streaming.Shutdown(sessions, errShutdown); err != nil {
		klog.FromContext(ctx).Info("Cut sessions that did not end in time", "timeout", sessionTimeout)
	}
	return s.parts.stop(ctx)
}

// startParts starts what runs beside the API, in the order of who uses whom.
func (s *Server) startParts(ctx context.Context) {
	run := func(name string, f func(context.Context)) {
		s.parts.start(ctx, part{name, func(ctx context.Context) error { f(ctx); return ctx.Err() }})
	}
	if s.config.ServingCert != nil {
		run("serving-certificate", s.config.ServingCert.Run)
		run("apiservice-cabundle", func(ctx context.Context) {
			// kube-apiserver calls as soon as it can verify us: not before we can verify it.
			if wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(context.Context) (bool, error) {
				return s.ready.callersKnown(), nil
			}) == nil {
				s.config.CABundle.Run(ctx)
			}
		})
	}
	run("kubelet-certificate", s.config.KubeletCert.Run)
	run("events", s.recordEvents)
	s.parts.start(ctx, part{"controllers", s.controllers.Run})
	s.parts.start(ctx, part{"kubelet-endpoint", func(ctx context.Context) error {
		s.ready.kubelet.Store(true)
		defer s.ready.kubelet.Store(false)
		return s.kubelet.Run(ctx)
	}})
	run("device-ca", func(ctx context.Context) { s.authority.KeepSecret(ctx, s.config.Kube) })
	s.parts.start(ctx, part{"gateway", s.runGateway})
}

// recordEvents writes events to the main cluster, where "kubectl describe" looks for them, within the limit
// that all of its normal events share.
func (s *Server) recordEvents(ctx context.Context) {
	s.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.config.EventClients.Normal.CoreV1().Events("")})
	<-ctx.Done()
	s.events.Shutdown()
}

// runGateway serves devices once it is known which there are. Those that dial in earlier wait.
func (s *Server) runGateway(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), s.controllers.HasSynced) {
		closeListener(s.config.GatewayListener)
		return ctx.Err()
	}
	s.ready.gateway.Store(true)
	defer s.ready.gateway.Store(false)
	return s.gateway.Run(ctx)
}

// Run serves until ctx ends, then ends all sessions, tells devices and clients why, and returns when
// everything is down. It fails if a part of the server does. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	s.parts.failed = func(err error) {
		klog.FromContext(ctx).Error(err, "A part of the server failed; shutting down")
		fail(err)
	}
	err := s.Generic.PrepareRun().RunWithContext(ctx)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return errors.Join(err, s.stopErr)
}

// portOf returns the port that a listener got.
func portOf(l net.Listener) int32 {
	p, err := port(l.Addr().String())
	if err != nil {
		return 0
	}
	return p
}

// hosts returns the hosts of addresses that were validated.
func hosts(addresses []string) []string {
	names := make([]string, 0, len(addresses))
	for _, a := range addresses {
		if host, _, err := net.SplitHostPort(a); err == nil {
			names = append(names, host)
		}
	}
	return names
}
