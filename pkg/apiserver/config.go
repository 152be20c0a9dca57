package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/tracing"
	"k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"arhat.dev/aranya/pkg/apis/aranya/scheme"
	"arhat.dev/aranya/pkg/apiserver/kubeletcert"
	"arhat.dev/aranya/pkg/apiserver/servingcert"
	"arhat.dev/aranya/pkg/controller/events"
	"arhat.dev/aranya/pkg/controller/node/leaseclient"
	"arhat.dev/aranya/pkg/edge/link"
	generatedopenapi "arhat.dev/aranya/pkg/generated/openapi"
	"arhat.dev/aranya/pkg/registry/edgedevice"
	"arhat.dev/aranya/pkg/version"
)

const (
	// apiServiceName is the APIService through which kube-apiserver finds us.
	apiServiceName = "v1alpha1.aranya.arhat.dev"

	// shutdownWatchGracePeriod is how long watches may take to end when the server stops.
	shutdownWatchGracePeriod = 5 * time.Second
	// admissionResync is what the generic library uses for informers of admission.
	admissionResync = 10 * time.Minute
)

// Config is what a Server is made from.
type Config struct {
	Generic *genericapiserver.RecommendedConfig
	Extra   ExtraConfig
}

// ExtraConfig is what aranya needs beyond a generic API server.
type ExtraConfig struct {
	// Kube is the main cluster.
	Kube kubernetes.Interface
	// EventClients are the same for events, with limits.
	EventClients events.Clients
	// Leases renews the Leases of Nodes there.
	Leases *leaseclient.Client
	// ServingCert is nil if the serving certificate comes from files.
	ServingCert *servingcert.Manager
	// CABundle is nil if ServingCert is.
	CABundle    *servingcert.CABundle
	KubeletCert *kubeletcert.Manager

	Namespace   string
	ReplicaName string
	NodeAddress net.IP
	// ReconnectGrace is Options.ReconnectGracePeriod.
	ReconnectGrace time.Duration
	// ParkAfter is Options.MQTTParkAfter: no other link can be parked.
	ParkAfter time.Duration

	// The Server closes the listeners.
	GatewayListener, KubeletListener net.Listener
	// GatewayAddresses are host:port for devices, the preferred one first. May be empty.
	GatewayAddresses []string
}

// Config makes the configuration of a server. It listens on all ports, so that a port in use is found
// at once, and waits for the main cluster. The listeners are closed if it fails.
func (o *Options) Config(ctx context.Context) (*Config, error) {
	kubeConfig, err := o.kubeConfig()
	if err != nil {
		return nil, err
	}
	generic := genericapiserver.NewRecommendedConfig(scheme.Codecs)
	if err := o.applyTraces(&generic.Config, kubeConfig); err != nil {
		return nil, err
	}
	kube, eventClients, err := clients(kubeConfig)
	if err != nil {
		return nil, fmt.Errorf("make a client for the main cluster: %w", err)
	}
	leases, err := leaseclient.New(kubeConfig)
	if err != nil {
		return nil, fmt.Errorf("make a client for Leases of the main cluster: %w", err)
	}
	config := &Config{
		Generic: generic,
		Extra: ExtraConfig{
			Kube:             kube,
			EventClients:     eventClients,
			Leases:           leases,
			Namespace:        o.Namespace,
			ReplicaName:      o.ReplicaName,
			NodeAddress:      o.NodeAddress,
			ReconnectGrace:   o.ReconnectGracePeriod,
			ParkAfter:        o.MQTTParkAfter,
			GatewayAddresses: o.GatewayAdvertiseAddresses,
		},
	}
	config.Generic.ClientConfig = kubeConfig
	config.Generic.SharedInformerFactory = informers.NewSharedInformerFactory(kube, admissionResync)
	if err := o.addCertificates(ctx, kubeConfig, &config.Extra); err != nil {
		return nil, err
	}
	if err := o.fitAdmission(ctx, kube); err != nil {
		return nil, err
	}
	if err := o.applyGeneric(config.Generic); err != nil {
		closeListener(o.Recommended.SecureServing.Listener)
		return nil, err
	}
	if err := o.listen(ctx, &config.Extra); err != nil {
		closeListener(o.Recommended.SecureServing.Listener)
		return nil, err
	}
	return config, nil
}

// kubeConfig says how to reach the main cluster: without a limit of our own, because it has priority
// and fairness to defend itself, and in protobuf.
func (o *Options) kubeConfig() (*restclient.Config, error) {
	// An empty path means the service account of the pod.
	config, err := clientcmd.BuildConfigFromFlags("", o.CoreAPI.CoreAPIKubeconfigPath)
	if err != nil {
		return nil, fmt.Errorf("find the main cluster (give --kubeconfig outside of a pod): %w", err)
	}
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.UserAgent = userAgent()
	return config, nil
}

// Limits of the events that are written, per second and in a burst, of normal ones and of warnings each: enough for
// anybody who reads them, and little beside what the Nodes of a thousand devices that come at once cost.
const (
	eventQPS   = 20
	eventBurst = 100
)

// clients returns a client of the main cluster without a limit, and those for events.
func clients(kubeConfig *restclient.Config) (kube kubernetes.Interface, forEvents events.Clients, err error) {
	if kube, err = kubernetes.NewForConfig(kubeConfig); err != nil {
		return nil, events.Clients{}, err
	}
	limited := restclient.CopyConfig(kubeConfig)
	limited.QPS, limited.Burst = eventQPS, eventBurst
	// Each gets a limiter of its own.
	if forEvents.Normal, err = kubernetes.NewForConfig(limited); err != nil {
		return nil, events.Clients{}, err
	}
	forEvents.Warning, err = kubernetes.NewForConfig(limited)
	return kube, forEvents, err
}

func userAgent() string { return "aranya-apiserver/" + version.String() }

// addCertificates sets up the certificates that aranya makes or requests itself.
func (o *Options) addCertificates(ctx context.Context, kubeConfig *restclient.Config, extra *ExtraConfig) (err error) {
	if o.ownServingCert() {
		if err := o.addServingCert(ctx, kubeConfig, extra); err != nil {
			return err
		}
	}
	extra.KubeletCert, err = kubeletcert.New(ctx, kubeletcert.Config{
		Kube:    extra.Kube,
		Replica: o.ReplicaName,
		Address: o.NodeAddress,
	})
	return err
}

func (o *Options) addServingCert(ctx context.Context, kubeConfig *restclient.Config, extra *ExtraConfig) (err error) {
	names := []string{
		o.ServiceName + "." + o.Namespace + ".svc", // what kube-apiserver verifies: first, as common name
		o.ServiceName + "." + o.Namespace + ".svc.cluster.local",
		o.ServiceName + "." + o.Namespace,
		"localhost",
	}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if ip := o.Recommended.SecureServing.BindAddress; ip != nil && !ip.IsUnspecified() && !ip.IsLoopback() {
		ips = append(ips, ip)
	}
	err = retry(ctx, "the serving CA", func(ctx context.Context) error {
		extra.ServingCert, err = servingcert.New(ctx, servingcert.Config{Kube: extra.Kube, Namespace: o.Namespace, DNSNames: names, IPs: ips})
		return err
	})
	if err != nil {
		return err
	}
	o.Recommended.SecureServing.ServerCert.GeneratedCert = extra.ServingCert

	aggregator, err := clientset.NewForConfig(kubeConfig)
	if err != nil {
		return fmt.Errorf("make a client for APIServices: %w", err)
	}
	extra.CABundle = servingcert.NewCABundle(servingcert.CABundleConfig{
		Client:     aggregator,
		APIService: apiServiceName,
		Namespace:  o.Namespace,
		Service:    o.ServiceName,
		Manager:    extra.ServingCert,
	})
	return nil
}

// applyGeneric configures the generic API server.
func (o *Options) applyGeneric(config *genericapiserver.RecommendedConfig) error {
	if err := o.ServerRun.DefaultAdvertiseAddress(o.Recommended.SecureServing.SecureServingOptions); err != nil {
		return err
	}
	if err := o.ServerRun.ApplyTo(&config.Config); err != nil {
		return err
	}
	config.EffectiveVersion = effectiveVersion{config.EffectiveVersion}

	namer := openapi.NewDefinitionNamer(scheme.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title = "aranya"
	config.OpenAPIConfig.Info.Version = version.String()
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title = "aranya"
	config.OpenAPIV3Config.Info.Version = version.String()

	// kube-apiserver has the same list: a request that is long there and short here would be cut off.
	config.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))

	config.BuildHandlerChainFunc = func(handler http.Handler, c *genericapiserver.Config) http.Handler {
		return genericapiserver.DefaultBuildHandlerChain(edgedevice.WithRoutine(handler), c)
	}

	// The generic library does this for kube-apiserver only.
	storage := &o.Recommended.Etcd.StorageConfig
	var err error
	if storage.Codec, storage.EncodeVersioner, err = edgedevice.NewStorageCodec(o.Recommended.Etcd.DefaultStorageMediaType); err != nil {
		return fmt.Errorf("--storage-media-type: %w", err)
	}
	recommended := *o.Recommended
	recommended.Traces = nil // by applyTraces
	if err := recommended.ApplyTo(config); err != nil {
		return err
	}
	config.Authentication.Authenticator = newFrontProxy(config.Authentication.RequestHeaderConfig, config.Authentication.Authenticator)
	return nil
}

// applyTraces configures traces. Those of requests to the main cluster begin with clients that are made afterwards.
func (o *Options) applyTraces(config *genericapiserver.Config, kubeConfig *restclient.Config) error {
	if o.Recommended.Traces.ConfigFile == "" {
		return nil // a client without is cheaper
	}
	if err := o.Recommended.Traces.ApplyTo(nil, config); err != nil {
		return fmt.Errorf("--tracing-config-file: %w", err)
	}
	kubeConfig.Wrap(tracing.WrapperFor(config.TracerProvider))
	return nil
}

// listen opens the listeners for devices and for kube-apiserver's kubelet calls.
func (o *Options) listen(ctx context.Context, extra *ExtraConfig) (err error) {
	if extra.GatewayListener, err = link.ListenTCP(ctx, o.GatewayBindAddress); err != nil {
		return fmt.Errorf("listen for devices (--gateway-bind-address): %w", err)
	}
	if extra.KubeletListener, err = net.Listen("tcp", o.KubeletBindAddress); err != nil {
		closeListener(extra.GatewayListener)
		return fmt.Errorf("listen for kubelet calls (--kubelet-bind-address): %w", err)
	}
	return nil
}

func closeListener(l net.Listener) {
	if l != nil {
		_ = l.Close()
	}
}
