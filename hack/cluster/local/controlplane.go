package local

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"arhat.dev/aranya/hack/cluster/pki"
	"arhat.dev/aranya/hack/cluster/supervisor"
)

const (
	loopback = "127.0.0.1"
	// serviceCIDR holds the ClusterIPs. It is part of loopback, so that they can be dialled on a
	// machine without kube-proxy.
	serviceCIDR  = "127.96.0.0/16"
	kubernetesIP = "127.96.0.1"
	// startTimeout bounds how long a component may take to come up, on a machine that is busy.
	startTimeout = 2 * time.Minute
	systemPath   = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// identities are the authorities of a cluster and what they have issued.
type identities struct {
	ca, frontProxy, etcd      *pki.Authority
	apiServer, etcdServer     pki.Pair
	etcdClient, kubeletClient pki.Pair
	proxyClient               pki.Pair
	// components serves the health checks of controller-manager and scheduler.
	components          pki.Pair
	saPrivate, saPublic string
}

func (c *Cluster) identities() (*identities, error) {
	dir := c.path("pki")
	ids := &identities{}
	var err error
	for name, authority := range map[string]**pki.Authority{"ca": &ids.ca, "front-proxy-ca": &ids.frontProxy, "etcd-ca": &ids.etcd} {
		if *authority, err = pki.LoadOrCreateAuthority(dir, name); err != nil {
			return nil, err
		}
	}
	for _, item := range []struct {
		pair *pki.Pair
		by   *pki.Authority
		name string
		req  pki.Request
	}{
		{&ids.apiServer, ids.ca, "kube-apiserver", pki.Request{CommonName: "kube-apiserver", Hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost", loopback, kubernetesIP}}},
		{&ids.kubeletClient, ids.ca, "kube-apiserver-kubelet-client", pki.Request{CommonName: "kube-apiserver-kubelet-client",
			Organizations: []string{"system:masters"}}},
		{&ids.components, ids.ca, "components", pki.Request{CommonName: "components", Hosts: []string{"localhost", loopback}}},
		{&ids.proxyClient, ids.frontProxy, "front-proxy-client", pki.Request{CommonName: "front-proxy-client"}},
		{&ids.etcdServer, ids.etcd, "etcd-server", pki.Request{CommonName: "etcd", Hosts: []string{"localhost", loopback}}},
		{&ids.etcdClient, ids.etcd, "etcd-client", pki.Request{CommonName: "etcd-client"}},
	} {
		if *item.pair, err = item.by.LoadOrIssue(item.name, item.req); err != nil {
			return nil, err
		}
	}
	ids.saPrivate, ids.saPublic, err = pki.LoadOrCreateKey(dir, "service-account")
	return ids, err
}

// kubeconfig writes a kubeconfig file for a user that the cluster's CA vouches for.
func (c *Cluster) kubeconfig(ids *identities, path, file, user string, groups ...string) error {
	pair, err := ids.ca.LoadOrIssue(file, pki.Request{CommonName: user, Organizations: groups})
	if err != nil {
		return err
	}
	var data [2][]byte
	for i, name := range []string{pair.CertFile, pair.KeyFile} {
		if data[i], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	return c.writeKubeconfig(ids, path, user, &clientcmdapi.AuthInfo{ClientCertificateData: data[0], ClientKeyData: data[1]})
}

func (c *Cluster) writeKubeconfig(ids *identities, path, user string, auth *clientcmdapi.AuthInfo) error {
	ca, err := os.ReadFile(ids.ca.CertFile)
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["local"] = &clientcmdapi.Cluster{Server: c.server(), CertificateAuthorityData: ca}
	config.AuthInfos[user] = auth
	config.Contexts["local"] = &clientcmdapi.Context{Cluster: "local", AuthInfo: user}
	config.CurrentContext = "local"
	return clientcmd.WriteToFile(*config, path)
}

// UserKubeconfig writes a kubeconfig file for another user and returns its path.
func (c *Cluster) UserKubeconfig(user string, groups ...string) (string, error) {
	ids, err := c.identities()
	if err != nil {
		return "", err
	}
	path := c.path("kubeconfigs", "user-"+user)
	return path, c.kubeconfig(ids, path, "user-"+user, user, groups...)
}

func (c *Cluster) server() string { return "https://" + hostPort(c.state.Ports.APIServer) }

// hostPort returns a port's address on loopback.
func hostPort(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

// startKubernetes starts etcd and the control plane, and waits until they work.
func (c *Cluster) startKubernetes(ctx context.Context, ids *identities) error {
	for file, user := range map[string][]string{
		"controller-manager": {"system:kube-controller-manager"},
		"scheduler":          {"system:kube-scheduler"},
	} {
		if err := c.kubeconfig(ids, c.path("kubeconfigs", file), file, user[0]); err != nil {
			return err
		}
	}
	if err := c.kubeconfig(ids, c.Kubeconfig(), "admin", "kubernetes-admin", "system:masters"); err != nil {
		return err
	}
	admin, err := c.clientset()
	if err != nil {
		return err
	}
	readyz := func(ctx context.Context) error {
		return admin.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}
	if err := c.step("start etcd and kube-apiserver", func() error {
		if err := c.startCloud(ctx, c.etcd(ids), c.kubeAPIServer(ids)); err != nil {
			return err
		}
		return waitService(ctx, c.Cloud(), ServiceAPIServer, readyz)
	}); err != nil {
		return err
	}
	return c.step("start kube-controller-manager and kube-scheduler", func() error {
		if err := c.startCloud(ctx, c.controllerManager(ids), c.scheduler(ids)); err != nil {
			return err
		}
		for service, port := range map[string]int{ServiceControllerManager: c.state.Ports.ControllerManager, ServiceScheduler: c.state.Ports.Scheduler} {
			if err := waitService(ctx, c.Cloud(), service, c.healthz(port)); err != nil {
				return err
			}
		}
		// Admission refuses pods in a namespace until controller-manager has made its service account.
		return waitService(ctx, c.Cloud(), ServiceControllerManager, func(ctx context.Context) error {
			_, err := admin.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
			return err
		})
	})
}

// healthz asks a component on loopback whether it is well.
func (c *Cluster) healthz(port int) func(context.Context) error {
	return func(ctx context.Context) error {
		config, err := c.RESTConfig()
		if err != nil {
			return err
		}
		config.Host = "https://" + hostPort(port)
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		return client.Discovery().RESTClient().Get().AbsPath("/healthz").Do(ctx).Error()
	}
}

// startCloud hands services to the supervisor of the cloud side.
func (c *Cluster) startCloud(ctx context.Context, services ...supervisor.Service) error {
	for _, svc := range services {
		svc.Log = c.path("logs", svc.Name+".log")
		svc.Env = c.serviceEnv()
		svc.Dir = c.Dir
		svc.Argv = append(svc.Argv, c.state.ExtraArgs[svc.Name]...)
		if err := c.Cloud().Start(ctx, svc); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) serviceEnv() []string {
	return []string{"PATH=" + systemPath, "HOME=" + c.path("home"), "LANG=C.UTF-8", clusterVariable + "=" + c.state.ID}
}

func (c *Cluster) program(name string) string { return fmt.Sprintf("%s/%s", c.state.Bin, name) }

func (c *Cluster) etcd(ids *identities) supervisor.Service {
	p := c.state.Ports
	return supervisor.Service{Name: ServiceEtcd, Argv: []string{
		c.program("cluster"), "etcd",
		"--name=" + c.state.ID,
		"--data-dir=" + c.path("etcd"),
		"--listen-client-urls=https://" + hostPort(p.Etcd),
		"--advertise-client-urls=https://" + hostPort(p.Etcd),
		"--listen-peer-urls=https://" + hostPort(p.EtcdPeer),
		"--initial-advertise-peer-urls=https://" + hostPort(p.EtcdPeer),
		"--initial-cluster=" + c.state.ID + "=https://" + hostPort(p.EtcdPeer),
		"--cert-file=" + ids.etcdServer.CertFile, "--key-file=" + ids.etcdServer.KeyFile,
		"--trusted-ca-file=" + ids.etcd.CertFile, "--client-cert-auth",
		"--peer-cert-file=" + ids.etcdServer.CertFile, "--peer-key-file=" + ids.etcdServer.KeyFile,
		"--peer-trusted-ca-file=" + ids.etcd.CertFile, "--peer-client-cert-auth",
		"--log-level=warn",
	}}
}

func (c *Cluster) kubeAPIServer(ids *identities) supervisor.Service {
	p := c.state.Ports
	return supervisor.Service{Name: ServiceAPIServer, StopTimeout: 20 * time.Second, Argv: []string{
		c.program("kubernetes"), "kube-apiserver",
		"--etcd-servers=https://" + hostPort(p.Etcd),
		"--etcd-cafile=" + ids.etcd.CertFile, "--etcd-certfile=" + ids.etcdClient.CertFile, "--etcd-keyfile=" + ids.etcdClient.KeyFile,
		"--bind-address=" + loopback, fmt.Sprintf("--secure-port=%d", p.APIServer), "--advertise-address=" + loopback,
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=" + serviceCIDR,
		"--tls-cert-file=" + ids.apiServer.CertFile, "--tls-private-key-file=" + ids.apiServer.KeyFile,
		"--client-ca-file=" + ids.ca.CertFile,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + ids.saPublic, "--service-account-signing-key-file=" + ids.saPrivate,
		"--requestheader-client-ca-file=" + ids.frontProxy.CertFile,
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-uid-headers=X-Remote-Uid", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + ids.proxyClient.CertFile, "--proxy-client-key-file=" + ids.proxyClient.KeyFile,
		"--kubelet-certificate-authority=" + ids.ca.CertFile,
		"--kubelet-client-certificate=" + ids.kubeletClient.CertFile, "--kubelet-client-key=" + ids.kubeletClient.KeyFile,
		"--shutdown-delay-duration=0s",
	}}
}

func (c *Cluster) controllerManager(ids *identities) supervisor.Service {
	config := c.path("kubeconfigs", "controller-manager")
	return supervisor.Service{Name: ServiceControllerManager, Argv: []string{
		c.program("kubernetes"), "kube-controller-manager",
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=" + loopback, fmt.Sprintf("--secure-port=%d", c.state.Ports.ControllerManager),
		"--tls-cert-file=" + ids.components.CertFile, "--tls-private-key-file=" + ids.components.KeyFile,
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + ids.saPrivate,
		"--root-ca-file=" + ids.ca.CertFile,
		"--cluster-signing-cert-file=" + ids.ca.CertFile, "--cluster-signing-key-file=" + ids.ca.KeyFile,
	}}
}

func (c *Cluster) scheduler(ids *identities) supervisor.Service {
	config := c.path("kubeconfigs", "scheduler")
	return supervisor.Service{Name: ServiceScheduler, Argv: []string{
		c.program("kubernetes"), "kube-scheduler",
		"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--bind-address=" + loopback, fmt.Sprintf("--secure-port=%d", c.state.Ports.Scheduler),
		"--tls-cert-file=" + ids.components.CertFile, "--tls-private-key-file=" + ids.components.KeyFile,
		"--leader-elect=false",
	}}
}
