package resolve

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// dockerAuth is an entry of a Docker configuration.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credentials reads the pod's image pull secrets. Admission has put those of the service account into
// the pod. As with the kubelet, a secret that cannot be used is a warning only: the image may be
// public, or there already.
func (r *Resolver) credentials(pod *corev1.Pod, result *Result, missing *Unresolved) []*edgeapi.RegistryCredential {
	var out []*edgeapi.RegistryCredential
	var absent []string
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == "" {
			continue
		}
		secret, err := r.Objects.Secret(pod.Namespace, ref.Name)
		if err != nil {
			if !missing.pending(err) {
				absent = append(absent, ref.Name)
			}
			continue
		}
		credentials, err := parsePullSecret(secret)
		if err != nil {
			result.warn("InvalidImagePullSecret", fmt.Sprintf("Image pull secret %q cannot be used: %v", ref.Name, err))
			continue
		}
		for _, c := range credentials {
			c.SecretUid = string(secret.UID)
		}
		out = append(out, credentials...)
	}
	if len(absent) > 0 {
		result.warn("FailedToRetrieveImagePullSecret", fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(absent, ", ")))
	}
	return out
}

func (r *Result) warn(reason, message string) {
	r.Warnings = append(r.Warnings, Warning{Reason: reason, Message: message})
}

// parsePullSecret reads a Secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.
// Errors do not quote its content.
func parsePullSecret(secret *corev1.Secret) ([]*edgeapi.RegistryCredential, error) {
	var auths map[string]dockerAuth
	if data, ok := secret.Data[corev1.DockerConfigJsonKey]; ok && secret.Type == corev1.SecretTypeDockerConfigJson {
		var config struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if json.Unmarshal(data, &config) != nil {
			return nil, fmt.Errorf("its key %s is no Docker configuration in JSON", corev1.DockerConfigJsonKey)
		}
		auths = config.Auths
	} else if data, ok := secret.Data[corev1.DockerConfigKey]; ok && secret.Type == corev1.SecretTypeDockercfg {
		if json.Unmarshal(data, &auths) != nil {
			return nil, fmt.Errorf("its key %s is no Docker configuration in JSON", corev1.DockerConfigKey)
		}
	} else {
		return nil, fmt.Errorf("its type is %q: it must be %q or %q, with the data that belongs to it", secret.Type, corev1.SecretTypeDockerConfigJson, corev1.SecretTypeDockercfg)
	}
	var out []*edgeapi.RegistryCredential
	for _, registry := range slices.Sorted(maps.Keys(auths)) {
		credential, err := auths[registry].credential(registry)
		if err != nil {
			return nil, err
		}
		out = append(out, credential)
	}
	return out, nil
}

func (a dockerAuth) credential(registry string) (*edgeapi.RegistryCredential, error) {
	if a.Auth != "" {
		plain, err := decodeAuth(a.Auth)
		if err != nil {
			return nil, fmt.Errorf("auth of registry %q is not base64", registry)
		}
		user, password, ok := strings.Cut(plain, ":")
		if !ok {
			return nil, fmt.Errorf("auth of registry %q is not user:password in base64", registry)
		}
		a.Username, a.Password = user, strings.Trim(password, "\x00")
	}
	return &edgeapi.RegistryCredential{
		Registry: registry, Username: a.Username, Password: a.Password,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	}, nil
}

// decodeAuth decodes base64 with and without padding: both are found in the wild.
func decodeAuth(auth string) (string, error) {
	auth = strings.TrimRight(auth, "=")
	plain, err := base64.RawStdEncoding.DecodeString(auth)
	return string(plain), err
}
