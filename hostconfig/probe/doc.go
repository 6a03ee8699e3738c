// Package probe proves whether the running containerd obeys a hosts directory.
//
// Neither config.toml nor what the daemon exports can tell: since 2.1 a config_path that is a list is ignored by
// default pulls, drop-ins override each other, and 2.0 to 2.3 say nothing at all. So the probe asks for behaviour:
//
//  1. It listens on a loopback port and makes up a nonce.
//  2. It publishes the host directory hotplate-probe.invalid, whose mirror and server are that listener, below a path
//     that is the nonce. The name is reserved (RFC 2606) and resolves nowhere.
//  3. It asks the daemon through CRI to pull hotplate-probe.invalid/p:<nonce>.
//  4. A request that arrives below the nonce proves that this daemon reads this directory at every pull: no restart is
//     needed for anything in it. The listener answers 404, the pull fails, and nothing stays in the daemon.
//  5. It removes the host directory.
//
// Loopback addresses are exempt from HTTP_PROXY (net/http), so a hit says nothing about whether the daemon reaches the
// mirrors through its proxy.
//
// A crash leaves the host directory, which the next start of hostconfig/apply removes. It harms nothing: no image has
// that host.
package probe
