package validation

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"arhat.dev/aranya/pkg/apis/aranya"
)

const (
	maxPodCapacity = 1000
	// The limits of a pod's DNS configuration are the same as in a Pod: they come from the C library.
	maxNameservers     = 3
	maxSearches        = 32
	maxSearchListChars = 2048
)

func validatePod(spec *aranya.PodSpec, path *field.Path) field.ErrorList {
	errs := inRange(spec.Capacity, 1, maxPodCapacity, path.Child("capacity"))
	if spec.DNS != nil {
		errs = append(errs, validateDNS(spec.DNS, path.Child("dns"))...)
	}
	return errs
}

func validateDNS(dns *corev1.PodDNSConfig, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	nameservers := path.Child("nameservers")
	if len(dns.Nameservers) == 0 {
		errs = append(errs, field.Required(nameservers, "name at least one, or remove dns to have pods use the device's own resolver"))
	}
	if len(dns.Nameservers) > maxNameservers {
		errs = append(errs, field.TooMany(nameservers, len(dns.Nameservers), maxNameservers))
	}
	for i, server := range dns.Nameservers {
		errs = append(errs, validation.IsValidIP(nameservers.Index(i), server)...)
	}

	searches := path.Child("searches")
	if len(dns.Searches) > maxSearches {
		errs = append(errs, field.TooMany(searches, len(dns.Searches), maxSearches))
	}
	if len(strings.Join(dns.Searches, " ")) > maxSearchListChars {
		errs = append(errs, field.TooLong(searches, "", maxSearchListChars))
	}
	for i, search := range dns.Searches {
		if search == "." {
			continue
		}
		errs = append(errs, invalid(searches.Index(i), search,
			validation.IsDNS1123SubdomainWithUnderscore(strings.TrimSuffix(search, ".")))...)
	}

	for i, option := range dns.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i).Child("name"), `for example "ndots"`))
		}
	}
	return errs
}
