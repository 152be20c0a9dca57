package resolve

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
)

// resolveEnv replaces envFrom and references to ConfigMaps and Secrets in all containers of plain, a
// copy of pod, by plain values.
func (r *Resolver) resolveEnv(pod, plain *corev1.Pod, missing *Unresolved) {
	forEachContainer(&plain.Spec, func(name string, env *[]corev1.EnvVar, from *[]corev1.EnvFromSource) {
		resolved, err := r.containerEnv(pod.Namespace, *env, *from)
		switch {
		case err == nil:
			*env, *from = resolved, nil
		case !missing.pending(err):
			missing.Containers[name] = err.Error()
		}
	})
}

// forEachContainer calls f for each container of any kind.
func forEachContainer(spec *corev1.PodSpec, f func(name string, env *[]corev1.EnvVar, from *[]corev1.EnvFromSource)) {
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		f(c.Name, &c.Env, &c.EnvFrom)
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		f(c.Name, &c.Env, &c.EnvFrom)
	}
	for i := range spec.EphemeralContainers {
		c := &spec.EphemeralContainers[i]
		f(c.Name, &c.Env, &c.EnvFrom)
	}
}

// containerEnv returns the environment of a container without references to ConfigMaps and Secrets.
// As with the kubelet, env overrides envFrom, and of envFrom the last one counts.
func (r *Resolver) containerEnv(namespace string, env []corev1.EnvVar, from []corev1.EnvFromSource) ([]corev1.EnvVar, error) {
	values, err := r.envFrom(namespace, from)
	if err != nil {
		return nil, err
	}
	result := make([]corev1.EnvVar, 0, len(values)+len(env))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		result = append(result, corev1.EnvVar{Name: name, Value: literal(values[name])})
	}
	for _, e := range env {
		if e.Value != "" || e.ValueFrom == nil || (e.ValueFrom.ConfigMapKeyRef == nil && e.ValueFrom.SecretKeyRef == nil) {
			result = append(result, e)
			continue
		}
		value, found, err := r.keyRef(namespace, e.ValueFrom)
		if err != nil {
			return nil, err
		}
		if found {
			result = append(result, corev1.EnvVar{Name: e.Name, Value: literal(value)})
		}
	}
	if len(result) == 0 {
		return nil, nil
	}
	return result, nil
}

func (r *Resolver) envFrom(namespace string, from []corev1.EnvFromSource) (map[string]string, error) {
	values := map[string]string{}
	for _, source := range from {
		switch {
		case source.ConfigMapRef != nil:
			object, err := r.Objects.ConfigMap(namespace, source.ConfigMapRef.Name)
			if err != nil {
				if skip(err, source.ConfigMapRef.Optional) {
					continue
				}
				return nil, err
			}
			for k, v := range object.Data {
				values[source.Prefix+k] = v
			}
		case source.SecretRef != nil:
			object, err := r.Objects.Secret(namespace, source.SecretRef.Name)
			if err != nil {
				if skip(err, source.SecretRef.Optional) {
					continue
				}
				return nil, err
			}
			for k, v := range object.Data {
				values[source.Prefix+k] = string(v)
			}
		}
	}
	return values, nil
}

// keyRef looks up one key. It returns false without an error if what is optional is not there.
func (r *Resolver) keyRef(namespace string, from *corev1.EnvVarSource) (value string, found bool, err error) {
	if ref := from.ConfigMapKeyRef; ref != nil {
		object, err := r.Objects.ConfigMap(namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		if value, found = object.Data[ref.Key]; !found && !ptr.Deref(ref.Optional, false) {
			err = fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, namespace, ref.Name)
		}
		return value, found, err
	}
	ref := from.SecretKeyRef
	object, err := r.Objects.Secret(namespace, ref.Name)
	if err != nil {
		return "", false, unlessOptional(err, ref.Optional)
	}
	data, found := object.Data[ref.Key]
	if !found && !ptr.Deref(ref.Optional, false) {
		err = fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, namespace, ref.Name)
	}
	return string(data), found, err
}

// skip says whether an error means only that an optional object is not there.
func skip(err error, optional *bool) bool {
	return ptr.Deref(optional, false) && apierrors.IsNotFound(err)
}

func unlessOptional(err error, optional *bool) error {
	if skip(err, optional) {
		return nil
	}
	return err
}

// literal protects a value from the expansion of $(NAME) on the device.
func literal(value string) string {
	return strings.ReplaceAll(value, "$", "$$")
}
