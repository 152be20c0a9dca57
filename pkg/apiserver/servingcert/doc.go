// Package servingcert makes and renews the certificate with which aranya's API server serves, and keeps
// the APIService's caBundle in step, so that an installation needs no certificate manager. The
// certificates of devices and of the kubelet endpoint are not made here.
//
// The CA lies in a Secret that all replicas share; serving certificates live in memory. A CA is
// replaced long before it expires, in three steps that never leave kube-apiserver without trust: the
// next CA is published in the caBundle; later it takes over the signing; the old one is dropped when
// nothing signed by it can be in use.
package servingcert
