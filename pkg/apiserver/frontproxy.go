package apiserver

import (
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
)

// frontProxies is of how many kube-apiservers the certificates are remembered.
const frontProxies = 16

// frontProxy authenticates what kube-apiserver passes on as the library does, but verifies the certificate that
// it comes with once instead of for each request: the signatures take longer than the rest of a small request.
// About all else, what is refused included, the library decides.
type frontProxy struct {
	verifyOptions func() (x509.VerifyOptions, bool)
	names         headerrequest.StringSliceProvider
	user          authenticator.Request // from the headers
	library       authenticator.Request
	clock         clock.PassiveClock
	known         *lru.Cache // of verified, by the digest of the certificate
}

// verified tells of a certificate that it was found good: by these roots, which are others once the CA is
// changed, and until this time.
type verified struct {
	roots *x509.CertPool
	until time.Time
}

// newFrontProxy returns the library's authenticator if there is no front proxy.
func newFrontProxy(config *authenticatorfactory.RequestHeaderConfig, library authenticator.Request) authenticator.Request {
	if config == nil {
		return library
	}
	return &frontProxy{
		verifyOptions: config.CAContentProvider.VerifyOptions,
		names:         config.AllowedClientNames,
		user: group.NewAuthenticatedGroupAdder(headerrequest.NewDynamic(
			config.UsernameHeaders, config.UIDHeaders, config.GroupHeaders, config.ExtraHeaderPrefixes)),
		library: library,
		clock:   clock.RealClock{},
		known:   lru.New(frontProxies),
	}
}

// AuthenticateRequest implements authenticator.Request.
func (p *frontProxy) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && p.trusts(r.TLS.PeerCertificates) {
		if response, ok, err := p.user.AuthenticateRequest(r); ok && err == nil {
			return response, ok, nil
		}
	}
	return p.library.AuthenticateRequest(r)
}

// trusts says whether a client is a front proxy.
func (p *frontProxy) trusts(certificates []*x509.Certificate) bool {
	options, ok := p.verifyOptions()
	if !ok {
		return false
	}
	leaf, now := certificates[0], p.clock.Now()
	if names := p.names.Value(); len(names) > 0 && !slices.Contains(names, leaf.Subject.CommonName) {
		return false
	}
	digest := sha256.Sum256(leaf.Raw)
	if found, ok := p.known.Get(digest); ok {
		if v := found.(verified); v.roots == options.Roots && now.Before(v.until) {
			return true
		}
	}
	options.CurrentTime = now
	if options.Intermediates == nil {
		options.Intermediates = x509.NewCertPool()
		for _, c := range certificates[1:] {
			options.Intermediates.AddCert(c)
		}
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return false
	}
	p.known.Add(digest, verified{roots: options.Roots, until: validUntil(chains)})
	return true
}

// validUntil is when the last of the chains ends.
func validUntil(chains [][]*x509.Certificate) (until time.Time) {
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain[1:] {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(until) {
			until = end
		}
	}
	return until
}
