package apiserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation"

	"arhat.dev/aranya/pkg/controller"
	"arhat.dev/aranya/pkg/edge/gateway"
)

// Complete fills in what can be derived from other options.
func (o *Options) Complete() error {
	if kubeconfig := o.CoreAPI.CoreAPIKubeconfigPath; kubeconfig != "" {
		if o.Recommended.Authentication.RemoteKubeConfigFile == "" {
			o.Recommended.Authentication.RemoteKubeConfigFile = kubeconfig
		}
		if o.Recommended.Authorization.RemoteKubeConfigFile == "" {
			o.Recommended.Authorization.RemoteKubeConfigFile = kubeconfig
		}
	}
	return o.ServerRun.Complete()
}

// Validate finds everything that is wrong with the options. Errors name the flag and what to do.
func (o *Options) Validate() error {
	var errs []error
	errs = append(errs, o.ServerRun.Validate()...)
	errs = append(errs, o.validateRecommended()...)
	errs = append(errs, o.Metrics.Validate()...)
	errs = append(errs, o.validateEtcd()...)
	errs = append(errs, o.validateNames()...)
	errs = append(errs, o.validateAddresses()...)
	if o.MQTTParkAfter < 0 {
		errs = append(errs, fmt.Errorf("--mqtt-park-after %s: it must not be less than 0, which stands for never; the default is %s", o.MQTTParkAfter, gateway.DefaultParkAfter))
	}
	if o.ReconnectGracePeriod <= 0 {
		errs = append(errs, fmt.Errorf("--reconnect-grace-period %s: it must be greater than 0; the default is %s", o.ReconnectGracePeriod, controller.DefaultReconnectGrace))
	}
	return utilerrors.NewAggregate(errs)
}

// checkFiles finds files that cannot be read, and names the flags they are from, before anything is started.
func (o *Options) checkFiles() error {
	r := o.Recommended
	kubeconfig := o.CoreAPI.CoreAPIKubeconfigPath
	type file struct{ flag, path string }
	files := []file{
		{"--kubeconfig", kubeconfig},
		{"--client-ca-file", r.Authentication.ClientCert.ClientCA},
		{"--requestheader-client-ca-file", r.Authentication.RequestHeader.ClientCAFile},
		{"--tls-cert-file", r.SecureServing.ServerCert.CertKey.CertFile},
		{"--tls-private-key-file", r.SecureServing.ServerCert.CertKey.KeyFile},
		{"--etcd-cafile", r.Etcd.StorageConfig.Transport.TrustedCAFile},
		{"--etcd-certfile", r.Etcd.StorageConfig.Transport.CertFile},
		{"--etcd-keyfile", r.Etcd.StorageConfig.Transport.KeyFile},
		{"--encryption-provider-config", r.Etcd.EncryptionProviderConfigFilepath},
		{"--audit-policy-file", r.Audit.PolicyFile},
		{"--audit-webhook-config-file", r.Audit.WebhookOptions.ConfigFile},
		{"--admission-control-config-file", r.Admission.ConfigFile},
		{"--tracing-config-file", r.Traces.ConfigFile},
		{"--allow-metric-labels-manifest", o.Metrics.AllowListMappingManifest},
	}
	// Complete has filled in that of --kubeconfig for those that were not given.
	if path := r.Authentication.RemoteKubeConfigFile; path != kubeconfig {
		files = append(files, file{"--authentication-kubeconfig", path})
	}
	if path := r.Authorization.RemoteKubeConfigFile; path != kubeconfig {
		files = append(files, file{"--authorization-kubeconfig", path})
	}
	for _, pair := range r.SecureServing.SNICertKeys {
		files = append(files, file{"--tls-sni-cert-key", pair.CertFile}, file{"--tls-sni-cert-key", pair.KeyFile})
	}
	var errs []error
	for _, file := range files {
		if file.path == "" {
			continue
		}
		f, err := os.Open(file.path)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file.flag, err))
			continue
		}
		_ = f.Close()
	}
	return utilerrors.NewAggregate(errs)
}

func (o *Options) validateRecommended() []error {
	r := o.Recommended
	var errs []error
	errs = append(errs, r.SecureServing.Validate()...)
	errs = append(errs, r.Authentication.Validate()...)
	errs = append(errs, r.Authorization.Validate()...)
	errs = append(errs, r.Audit.Validate()...)
	errs = append(errs, r.Features.Validate()...)
	errs = append(errs, r.Admission.Validate()...)
	errs = append(errs, r.Traces.Validate()...)
	if pair := r.SecureServing.ServerCert.CertKey; (pair.CertFile == "") != (pair.KeyFile == "") {
		errs = append(errs, errors.New("--tls-cert-file and --tls-private-key-file must be given together, or neither of them"))
	}
	return errs
}

func (o *Options) validateEtcd() []error {
	etcd := *o.Recommended.Etcd
	transport := etcd.StorageConfig.Transport
	if o.embeddedEtcd() {
		etcd.StorageConfig.Transport.ServerList = []string{"embedded"} // filled in once it runs
	}
	errs := etcd.Validate()
	if strings.Trim(etcd.StorageConfig.Prefix, "/") == "" {
		errs = append(errs, fmt.Errorf("--etcd-prefix: %q would put EdgeDevices among the keys of others; the default is %s",
			etcd.StorageConfig.Prefix, defaultEtcdPrefix))
	}
	if !o.embeddedEtcd() {
		if (transport.CertFile == "") != (transport.KeyFile == "") {
			errs = append(errs, errors.New("--etcd-certfile and --etcd-keyfile must be given together, or neither of them"))
		}
		return errs
	}
	if o.EmbeddedEtcdDir == "" {
		errs = append(errs, errors.New("either --etcd-servers or --embedded-etcd-dir must be given"))
	}
	if o.EmbeddedEtcdQuotaBytes < minQuotaBytes {
		errs = append(errs, fmt.Errorf("--embedded-etcd-quota-bytes must be %d (16 MiB) or more, not %d: an etcd that is smaller takes no writes; "+
			"the default is %d", minQuotaBytes, o.EmbeddedEtcdQuotaBytes, defaultQuotaBytes))
	}
	if transport.CertFile != "" || transport.KeyFile != "" || transport.TrustedCAFile != "" {
		errs = append(errs, errors.New("--etcd-certfile, --etcd-keyfile and --etcd-cafile need --etcd-servers: the embedded etcd has no TLS"))
	}
	return errs
}

func (o *Options) validateNames() []error {
	var errs []error
	check := func(flag, value string, problems []string) {
		for _, p := range problems {
			errs = append(errs, fmt.Errorf("%s: %q is not valid: %s", flag, value, p))
		}
	}
	check("--namespace", o.Namespace, content.IsDNS1123Label(o.Namespace))
	check("--service-name", o.ServiceName, validation.IsDNS1035Label(o.ServiceName))
	check("--replica-name", o.ReplicaName, content.IsDNS1123Subdomain(o.ReplicaName))
	return errs
}

func (o *Options) validateAddresses() []error {
	var errs []error
	for flag, address := range map[string]string{
		"--gateway-bind-address": o.GatewayBindAddress,
		"--kubelet-bind-address": o.KubeletBindAddress,
	} {
		if _, err := port(address); err != nil {
			errs = append(errs, fmt.Errorf("%s: %q is not an address like [host]:port: %w", flag, address, err))
		} else if host, _, _ := net.SplitHostPort(address); host != "" && net.ParseIP(host) == nil {
			errs = append(errs, fmt.Errorf("%s: %q is not an IP address of this machine; leave the host out to listen on all", flag, host))
		}
	}
	for _, address := range o.GatewayAdvertiseAddresses {
		host, _, err := net.SplitHostPort(address)
		if n, portErr := port(address); err != nil || portErr != nil || n == 0 || host == "" {
			errs = append(errs, fmt.Errorf("--gateway-advertise-address: %q must be host:port, with a port from 1 to 65535", address))
		} else if net.ParseIP(host) == nil && len(content.IsDNS1123Subdomain(host)) > 0 {
			errs = append(errs, fmt.Errorf("--gateway-advertise-address: %q is neither an IP address nor a DNS name", host))
		}
	}
	switch {
	case o.NodeAddress == nil && os.Getenv("POD_IP") != "":
		errs = append(errs, fmt.Errorf("--node-address: the environment variable POD_IP is not an IP address: %q", os.Getenv("POD_IP")))
	case o.NodeAddress == nil:
		errs = append(errs, errors.New("--node-address must be given (or the environment variable POD_IP): the IP address of this "+
			"replica at which kube-apiserver reaches the kubelet endpoint"))
	case o.NodeAddress.IsUnspecified():
		errs = append(errs, fmt.Errorf("--node-address: %s is no address that can be reached; give one of this machine's own", o.NodeAddress))
	}
	return errs
}
