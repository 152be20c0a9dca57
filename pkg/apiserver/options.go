package apiserver

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/component-base/metrics"
	netutils "k8s.io/utils/net"

	"arhat.dev/aranya/pkg/controller"
	"arhat.dev/aranya/pkg/edge/gateway"
)

const (
	// defaultEtcdPrefix is where everything of aranya lies in etcd.
	defaultEtcdPrefix = "/registry/aranya.arhat.dev"
	// defaultQuotaBytes is ample for 10,000 devices, whose objects are a few KiB each.
	defaultQuotaBytes = 2 << 30
	// minQuotaBytes is room for some hundred devices. With less than some pages etcd refuses its first write.
	minQuotaBytes = 16 << 20

	defaultNamespace   = "aranya-system"
	defaultServiceName = "aranya-apiserver"
)

// Options are the command line of aranya-apiserver.
type Options struct {
	// ServerRun are the options of any generic API server.
	ServerRun *genericoptions.ServerRunOptions
	// Recommended are storage, serving, authentication, authorization, audit, admission and tracing.
	Recommended *genericoptions.RecommendedOptions
	// CoreAPI says where the main cluster is.
	CoreAPI *genericoptions.CoreAPIOptions
	Logs    *logsapi.LoggingConfiguration
	Metrics *metrics.Options

	// EmbeddedEtcdDir is the data directory of the etcd inside this process, which is used if no etcd
	// servers are given.
	EmbeddedEtcdDir string
	// EmbeddedEtcdQuotaBytes is the size at which it refuses further writes.
	EmbeddedEtcdQuotaBytes int64

	// Namespace is aranya's own namespace in the main cluster, where it keeps its Secrets.
	Namespace string
	// ServiceName is the Service in Namespace that the APIService names.
	ServiceName string
	// ReplicaName tells this process from the one before. It is shown in status.link.replica.
	ReplicaName string

	// GatewayBindAddress is where the gateway listens for devices, as [host]:port.
	GatewayBindAddress string
	// GatewayAdvertiseAddresses are where devices reach the gateway, as host:port. The first one is
	// told with the enrolment tokens of devices without a broker; all are names in the gateway's certificate.
	GatewayAdvertiseAddresses []string

	// KubeletBindAddress is where the kubelet endpoint listens, as [host]:port.
	KubeletBindAddress string
	// NodeAddress is the address of this process that Nodes publish as their InternalIP:
	// kube-apiserver reaches the kubelet endpoint there.
	NodeAddress net.IP

	// ReconnectGracePeriod is how long devices may take to come back until they count as away, after
	// the start and when many links were lost at once.
	ReconnectGracePeriod time.Duration
	// MQTTParkAfter is after how much silence the link of a device over MQTT is parked, 0 for never.
	MQTTParkAfter time.Duration

	registry basecompatibility.ComponentGlobalsRegistry
}

// NewOptions returns the options with their defaults.
func NewOptions() *Options {
	registry := newComponentRegistry()
	o := &Options{
		ServerRun:   genericoptions.NewServerRunOptionsForComponent(basecompatibility.DefaultKubeComponent, registry),
		Recommended: genericoptions.NewRecommendedOptions(defaultEtcdPrefix, nil), // the codec depends on a flag
		CoreAPI:     genericoptions.NewCoreAPIOptions(),
		Logs:        logsapi.NewLoggingConfiguration(),
		Metrics:     metrics.NewOptions(),

		EmbeddedEtcdDir:        "/var/lib/aranya/etcd",
		EmbeddedEtcdQuotaBytes: defaultQuotaBytes,
		Namespace:              envOr("POD_NAMESPACE", defaultNamespace),
		ServiceName:            defaultServiceName,
		GatewayBindAddress:     ":7443",
		KubeletBindAddress:     ":10250",
		NodeAddress:            net.ParseIP(os.Getenv("POD_IP")),
		ReconnectGracePeriod:   controller.DefaultReconnectGrace,
		MQTTParkAfter:          gateway.DefaultParkAfter,
		registry:               registry,
	}
	if name, err := os.Hostname(); err == nil {
		o.ReplicaName = name
	}

	r := o.Recommended
	r.Etcd.DefaultStorageMediaType = runtime.ContentTypeProtobuf
	r.SecureServing.BindPort = 8443 // an unprivileged user cannot bind 443
	r.SecureServing.Required = true
	// Certificates are kept in memory; see the packages servingcert and kubeletcert.
	r.SecureServing.ServerCert.CertDirectory = ""
	r.SecureServing.ServerCert.PairName = ""
	r.EgressSelector = nil
	// Its ApplyTo would make clients that are limited to 5 requests/s.
	r.CoreAPI = nil

	// End watches promptly on shutdown: their clients resume elsewhere, or when we are back.
	o.ServerRun.ShutdownWatchTerminationGracePeriod = shutdownWatchGracePeriod
	return o
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// Flags returns the flags of all options in named sections.
func (o *Options) Flags() cliflag.NamedFlagSets {
	var fss cliflag.NamedFlagSets
	o.addAranyaFlags(fss.FlagSet("aranya"))
	o.addEtcdFlags(fss.FlagSet("etcd"))
	o.addServingFlags(fss.FlagSet("secure serving"))
	o.ServerRun.AddUniversalFlags(fss.FlagSet("generic"))
	o.CoreAPI.AddFlags(fss.FlagSet("aranya"))
	o.Recommended.Authentication.AddFlags(fss.FlagSet("authentication"))
	o.Recommended.Authorization.AddFlags(fss.FlagSet("authorization"))
	o.Recommended.Audit.AddFlags(fss.FlagSet("auditing"))
	o.Recommended.Features.AddFlags(fss.FlagSet("features"))
	o.Recommended.Admission.AddFlags(fss.FlagSet("admission"))
	o.Recommended.Traces.AddFlags(fss.FlagSet("traces"))
	o.Metrics.AddFlags(fss.FlagSet("metrics"))
	logsapi.AddFlags(o.Logs, fss.FlagSet("logs"))
	globalflag.AddGlobalFlags(fss.FlagSet("global"), "aranya-apiserver", logs.SkipLoggingConfigurationFlags())

	for flag, usage := range map[*pflag.Flag]string{
		fss.FlagSet("aranya").Lookup("kubeconfig"): "kubeconfig file of the main cluster. If empty, the service account of the " +
			"pod is used.",
		fss.FlagSet("authentication").Lookup("authentication-kubeconfig"): "kubeconfig file for creating tokenreviews.authentication.k8s.io. " +
			"Defaults to --kubeconfig.",
		fss.FlagSet("authorization").Lookup("authorization-kubeconfig"): "kubeconfig file for creating subjectaccessreviews.authorization.k8s.io. " +
			"Defaults to --kubeconfig.",
	} {
		flag.Usage = usage
	}
	return fss
}

func (o *Options) addAranyaFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Namespace, "namespace", o.Namespace, "Namespace of aranya itself in the main cluster, where it keeps its "+
		"CAs as Secrets. Defaults to $POD_NAMESPACE, or else "+defaultNamespace+".")
	fs.StringVar(&o.ServiceName, "service-name", o.ServiceName, "Name of the Service in --namespace that the APIService "+
		apiServiceName+" refers to. The serving certificate is made for <service>.<namespace>.svc.")
	fs.StringVar(&o.ReplicaName, "replica-name", o.ReplicaName, "Name of this process, as shown in status.link.replica. Only one "+
		"may run at a time for a cluster, whatever its name. Defaults to the host name.")
	fs.StringVar(&o.GatewayBindAddress, "gateway-bind-address", o.GatewayBindAddress, "Address on which to listen for devices, as "+
		"[host]:port.")
	fs.StringSliceVar(&o.GatewayAdvertiseAddresses, "gateway-advertise-address", o.GatewayAdvertiseAddresses, "Address at which devices "+
		"reach the gateway, as host:port, for example that of a LoadBalancer. May be repeated or comma-separated: the first is given "+
		"out with enrolment tokens of devices without a broker, all become names in the gateway's certificate.")
	fs.StringVar(&o.KubeletBindAddress, "kubelet-bind-address", o.KubeletBindAddress, "Address on which to serve the kubelet API of all "+
		"Nodes to kube-apiserver, as [host]:port.")
	fs.IPVar(&o.NodeAddress, "node-address", o.NodeAddress, "IP address of this replica that Nodes publish as InternalIP: kube-apiserver "+
		"must reach the kubelet endpoint there. Defaults to $POD_IP.")
	fs.DurationVar(&o.ReconnectGracePeriod, "reconnect-grace-period", o.ReconnectGracePeriod, "How long devices may take to come back "+
		"until their Nodes become Unknown, after a start of this process and when many links are lost at once, as by a network that fails. "+
		"A single device that is lost is told at once.")
	fs.DurationVar(&o.MQTTParkAfter, "mqtt-park-after", o.MQTTParkAfter, "After how much silence the link of a device over MQTT gives up "+
		"its TLS session, which is most of its memory, until either end has something to say: that takes a handshake longer then. 0 for never.")
}

func (o *Options) addEtcdFlags(fs *pflag.FlagSet) {
	o.Recommended.Etcd.AddFlags(fs)
	fs.Lookup("etcd-servers").Usage = "List of etcd servers to connect with (scheme://ip:port), comma separated. If empty, an etcd is run " +
		"inside this process, see --embedded-etcd-dir."
	fs.StringVar(&o.EmbeddedEtcdDir, "embedded-etcd-dir", o.EmbeddedEtcdDir, "Data directory of the etcd that runs inside this process "+
		"if --etcd-servers is not given. Only one process can use it at a time.")
	fs.Int64Var(&o.EmbeddedEtcdQuotaBytes, "embedded-etcd-quota-bytes", o.EmbeddedEtcdQuotaBytes, "Size of the embedded etcd's "+
		"database, in bytes, above which it refuses writes until the next start, which gives the space of old revisions back.")
}

func (o *Options) addServingFlags(fs *pflag.FlagSet) {
	o.Recommended.SecureServing.AddFlags(fs)
	// There is no certificate directory: see NewOptions.
	_ = fs.MarkHidden("cert-dir")
	fs.Lookup("tls-cert-file").Usage = "File with the x509 certificate for HTTPS (CA certificate, if any, after the server " +
		"certificate). If it is given, the caBundle of the APIService is left alone. Otherwise aranya issues its own certificate, " +
		"renews it, and keeps the caBundle right."
	fs.Lookup("tls-private-key-file").Usage = "File with the private key of --tls-cert-file."
}

// applyMetrics is Metrics.Apply, which logs an error for each start without an allow-list of labels.
func (o *Options) applyMetrics() {
	m := o.Metrics
	if len(m.ShowHiddenMetricsForVersion) > 0 {
		metrics.SetShowHidden()
	}
	metrics.SetDisabledMetrics(m.DisabledMetrics)
	if len(m.AllowListMapping) > 0 {
		metrics.SetLabelAllowList(m.AllowListMapping)
	} else if m.AllowListMappingManifest != "" {
		metrics.SetLabelAllowListFromManifest(m.AllowListMappingManifest)
	}
}

// ownServingCert says whether aranya issues its serving certificate itself.
func (o *Options) ownServingCert() bool {
	pair := o.Recommended.SecureServing.ServerCert.CertKey
	return pair.CertFile == "" && pair.KeyFile == ""
}

// embeddedEtcd says whether etcd runs in this process.
func (o *Options) embeddedEtcd() bool {
	return len(o.Recommended.Etcd.StorageConfig.Transport.ServerList) == 0
}

// port returns the port of a listening address that Validate has seen.
func port(address string) (int32, error) {
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	n, err := netutils.ParsePort(p, true)
	if err != nil {
		return 0, fmt.Errorf("port %q is not a number from 0 to 65535", p)
	}
	return int32(n), nil
}
