package resolve

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
)

// masterService is the Service whose variables every pod gets.
const masterService = "kubernetes"

// addServiceEnv puts the variables of Services before those of the containers, which thereby can
// refer to them and override them.
func (r *Resolver) addServiceEnv(pod *corev1.Pod) {
	vars := r.serviceEnv(pod.Namespace, ptr.Deref(pod.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks))
	if len(vars) == 0 {
		return
	}
	forEachContainer(&pod.Spec, func(_ string, env *[]corev1.EnvVar, _ *[]corev1.EnvFromSource) {
		own := sets.New[string]()
		for _, e := range *env {
			own.Insert(e.Name)
		}
		merged := make([]corev1.EnvVar, 0, len(vars)+len(*env))
		for _, v := range vars {
			if !own.Has(v.Name) {
				merged = append(merged, v)
			}
		}
		*env = append(merged, *env...)
	})
}

// serviceEnv returns the variables of the Services that a pod in this namespace sees, sorted by
// Service.
func (r *Resolver) serviceEnv(namespace string, links bool) []corev1.EnvVar {
	visible := map[string]*corev1.Service{}
	if links {
		services, err := r.Services.Services(namespace).List(labels.Everything())
		if err == nil {
			for _, s := range services {
				if hasIP(s) {
					visible[s.Name] = s
				}
			}
		}
	}
	if master, err := r.Services.Services(metav1.NamespaceDefault).Get(masterService); err == nil {
		if _, shadowed := visible[masterService]; !shadowed {
			visible[masterService] = master
		}
	}
	var vars []corev1.EnvVar
	for _, name := range slices.Sorted(maps.Keys(visible)) {
		vars = append(vars, serviceVars(visible[name])...)
	}
	return vars
}

// serviceVars returns the variables of one Service: <NAME>_SERVICE_{HOST,PORT,PORT_<port name>}, and
// those that links between Docker containers had.
func serviceVars(s *corev1.Service) []corev1.EnvVar {
	if !hasIP(s) {
		return nil
	}
	ip := s.Spec.ClusterIP
	prefix := envName(s.Name)
	var vars []corev1.EnvVar
	add := func(name, value string) { vars = append(vars, corev1.EnvVar{Name: name, Value: value}) }

	add(prefix+"_SERVICE_HOST", ip)
	add(prefix+"_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			add(prefix+"_SERVICE_PORT_"+envName(p.Name), strconv.Itoa(int(p.Port)))
		}
	}
	for i, p := range s.Spec.Ports {
		protocol := p.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		port := strconv.Itoa(int(p.Port))
		scheme := strings.ToLower(string(protocol))
		url := scheme + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			add(prefix+"_PORT", url)
		}
		linked := fmt.Sprintf("%s_PORT_%s_%s", prefix, port, strings.ToUpper(string(protocol)))
		add(linked, url)
		add(linked+"_PROTO", scheme)
		add(linked+"_PORT", port)
		add(linked+"_ADDR", ip)
	}
	return vars
}

func envName(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func hasIP(s *corev1.Service) bool {
	return s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone && len(s.Spec.Ports) > 0
}
