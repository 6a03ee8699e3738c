// Package certs reads CA bundles and key pairs strictly, and names them by their content.
package certs
