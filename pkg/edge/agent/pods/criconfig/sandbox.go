package criconfig

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

const (
	// maxHostname is that of a DNS label.
	maxHostname = 63
	// maxFQDN is what the kernel takes.
	maxFQDN = 64
)

// Sandbox returns the configuration of the pod's sandbox. Its logs go to node.LogDir. The warnings are
// for the user.
func Sandbox(pod *v1.Pod, node *Node, attempt uint32) (config *runtimeapi.PodSandboxConfig, warnings []string, err error) {
	dns, warnings, err := podDNS(pod, node)
	if err != nil {
		return nil, nil, err
	}
	labels := podutil.PodLabels(pod, node.Owner)
	for key, value := range pod.Labels {
		if _, ours := labels[key]; !ours {
			labels[key] = value
		}
	}
	config = &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{
			Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt,
		},
		Labels:       labels,
		Annotations:  pod.Annotations,
		DnsConfig:    dns,
		LogDirectory: podutil.LogDir(node.LogDir, pod.Namespace, pod.Name, string(pod.UID)),
		PortMappings: portMappings(pod),
	}
	if !pod.Spec.HostNetwork {
		hostname, err := kernelHostname(pod, node)
		if err != nil {
			return nil, nil, err
		}
		config.Hostname = hostname
	}
	config.Linux, err = sandboxLinux(pod, node)
	return config, warnings, err
}

func sandboxLinux(pod *v1.Pod, node *Node) (*runtimeapi.LinuxPodSandboxConfig, error) {
	if pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers {
		return nil, fmt.Errorf("hostUsers: false needs user namespaces, which are not available on this device")
	}
	linux := &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent: node.CgroupParent,
		Sysctls:      map[string]string{},
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: namespaces(pod),
			Privileged:       hasPrivileged(pod),
			Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		},
	}
	linux.Resources, linux.Overhead = sandboxResources(pod)
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return linux, nil
	}
	for _, sysctl := range sc.Sysctls {
		linux.Sysctls[strings.ReplaceAll(sysctl.Name, "/", ".")] = sysctl.Value
	}
	security := linux.SecurityContext
	security.RunAsUser = int64Value(sc.RunAsUser)
	security.RunAsGroup = int64Value(sc.RunAsGroup)
	security.SupplementalGroups, security.SupplementalGroupsPolicy = groups(sc)
	security.SelinuxOptions = selinux(sc.SELinuxOptions)
	return linux, nil
}

// namespaces says which namespaces the pod shares with the host and its containers with each other.
func namespaces(pod *v1.Pod) *runtimeapi.NamespaceOption {
	options := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		options.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		options.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		options.Pid = runtimeapi.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		options.Pid = runtimeapi.NamespaceMode_POD
	}
	return options
}

func hasPrivileged(pod *v1.Pod) bool {
	for c := range podutil.Containers(pod) {
		if sc := c.SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
			return true
		}
	}
	return false
}

func portMappings(pod *v1.Pod) []*runtimeapi.PortMapping {
	var mappings []*runtimeapi.PortMapping
	for c, list := range podutil.Containers(pod) {
		if list != "spec.containers" && !podutil.IsSidecar(c) {
			continue
		}
		for _, port := range c.Ports {
			mapping := &runtimeapi.PortMapping{HostIp: port.HostIP, HostPort: port.HostPort, ContainerPort: port.ContainerPort}
			switch port.Protocol {
			case v1.ProtocolUDP:
				mapping.Protocol = runtimeapi.Protocol_UDP
			case v1.ProtocolSCTP:
				mapping.Protocol = runtimeapi.Protocol_SCTP
			}
			mappings = append(mappings, mapping)
		}
	}
	return mappings
}

// clusterDomain is that of the cluster's Services, as the resolver's configuration for pods tells it;
// empty if it does not.
func clusterDomain(node *Node) string {
	if node.PodDNS == nil {
		return ""
	}
	for _, search := range node.PodDNS.Searches {
		if domain, ok := strings.CutPrefix(search, "svc."); ok {
			return domain
		}
	}
	return ""
}

// kernelHostname is the host name that the pod's processes are told.
func kernelHostname(pod *v1.Pod, node *Node) (string, error) {
	hostname, domain, err := podHostname(pod, node)
	if err != nil || domain == "" || pod.Spec.SetHostnameAsFQDN == nil || !*pod.Spec.SetHostnameAsFQDN {
		return hostname, err
	}
	fqdn := hostname + "." + domain
	if len(fqdn) > maxFQDN {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			fqdn, maxFQDN, len(fqdn))
	}
	return fqdn, nil
}

// podHostname returns the pod's host name, and its domain. That ends with the cluster's if it is known.
func podHostname(pod *v1.Pod, node *Node) (hostname, domain string, err error) {
	if override := pod.Spec.HostnameOverride; override != nil {
		if errs := validation.IsDNS1123Subdomain(*override); len(errs) > 0 {
			return "", "", fmt.Errorf("pod HostnameOverride %q is not a valid DNS subdomain: %s", *override, strings.Join(errs, ";"))
		}
		hostname, err = cut(pod, *override)
		return hostname, "", err
	}
	hostname = pod.Name
	if pod.Spec.Hostname != "" {
		if errs := validation.IsDNS1123Label(pod.Spec.Hostname); len(errs) > 0 {
			return "", "", fmt.Errorf("pod Hostname %q is not a valid DNS label: %s", pod.Spec.Hostname, strings.Join(errs, ";"))
		}
		hostname = pod.Spec.Hostname
	}
	if hostname, err = cut(pod, hostname); err != nil {
		return "", "", err
	}
	if pod.Spec.Subdomain != "" {
		if errs := validation.IsDNS1123Label(pod.Spec.Subdomain); len(errs) > 0 {
			return "", "", fmt.Errorf("pod Subdomain %q is not a valid DNS label: %s", pod.Spec.Subdomain, strings.Join(errs, ";"))
		}
		domain = fmt.Sprintf("%s.%s.svc", pod.Spec.Subdomain, pod.Namespace)
		if cluster := clusterDomain(node); cluster != "" {
			domain += "." + cluster
		}
	}
	return hostname, domain, nil
}

// cut shortens a host name to what fits.
func cut(pod *v1.Pod, hostname string) (string, error) {
	if len(hostname) <= maxHostname {
		return hostname, nil
	}
	hostname = strings.TrimRight(hostname[:maxHostname], "-.")
	if hostname == "" {
		return "", fmt.Errorf("hostname of pod %q is invalid after it was cut to %d characters", pod.Name, maxHostname)
	}
	return hostname, nil
}
