package resolve

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

// Reference names a ConfigMap or a Secret.
type Reference struct {
	// Secret is true for a Secret, false for a ConfigMap.
	Secret          bool
	Namespace, Name string
}

// References returns the ConfigMaps and Secrets that a pod takes something from.
func References(pod *corev1.Pod) sets.Set[Reference] {
	refs := sets.New[Reference]()
	add := func(secret bool, name string) {
		if name != "" {
			refs.Insert(Reference{Secret: secret, Namespace: pod.Namespace, Name: name})
		}
	}
	spec := pod.Spec
	forEachContainer(&spec, func(_ string, env *[]corev1.EnvVar, from *[]corev1.EnvFromSource) {
		for _, e := range *env {
			if e.ValueFrom == nil {
				continue
			}
			if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
				add(false, ref.Name)
			}
			if ref := e.ValueFrom.SecretKeyRef; ref != nil {
				add(true, ref.Name)
			}
		}
		for _, source := range *from {
			if source.ConfigMapRef != nil {
				add(false, source.ConfigMapRef.Name)
			}
			if source.SecretRef != nil {
				add(true, source.SecretRef.Name)
			}
		}
	})
	for _, ref := range spec.ImagePullSecrets {
		add(true, ref.Name)
	}
	for _, v := range spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			add(false, v.ConfigMap.Name)
		case v.Secret != nil:
			add(true, v.Secret.SecretName)
		case v.Projected != nil:
			for _, source := range v.Projected.Sources {
				if source.ConfigMap != nil {
					add(false, source.ConfigMap.Name)
				}
				if source.Secret != nil {
					add(true, source.Secret.Name)
				}
			}
		}
	}
	return refs
}
