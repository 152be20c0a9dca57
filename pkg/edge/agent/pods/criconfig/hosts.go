package criconfig

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
)

const (
	etcHosts = "/etc/hosts"
	// hostsMode lets all users of a container read the file.
	hostsMode = 0o644

	hostsHeader     = "# Kubernetes-managed hosts file.\n"
	hostsHeaderHost = "# Kubernetes-managed hosts file (host network).\n"
)

// writeHosts writes the pod's hosts file into podDir and returns its path. It is rewritten in place, so
// that containers that have it mounted see what is new.
func writeHosts(pod *v1.Pod, node *Node, podDir string, podIPs []string) (string, error) {
	content, err := hostsContent(pod, node, podIPs)
	if err != nil {
		return "", err
	}
	path := filepath.Join(podDir, "etc-hosts")
	if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, content) {
		if err := os.MkdirAll(podDir, 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, content, hostsMode); err != nil {
			return "", err
		}
	}
	return path, os.Chmod(path, hostsMode) // whatever the umask
}

func hostsContent(pod *v1.Pod, node *Node, podIPs []string) ([]byte, error) {
	var out bytes.Buffer
	if pod.Spec.HostNetwork {
		host, err := os.ReadFile(etcHosts)
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		out.WriteString(hostsHeaderHost)
		out.Write(host)
	} else {
		hostname, domain, err := podHostname(pod, node)
		if err != nil {
			return nil, err
		}
		out.WriteString(hostsHeader)
		out.WriteString("127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range podIPs {
			if domain != "" {
				fmt.Fprintf(&out, "%s\t%s.%s\t%s\n", ip, hostname, domain, hostname)
			} else {
				fmt.Fprintf(&out, "%s\t%s\n", ip, hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		out.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&out, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return out.Bytes(), nil
}
