// Package restart makes containerd read the hosts directory where only a change of its configuration and a restart will do.
// Nothing that hotplate does is more dangerous, so it does it as one transaction whose rollback does not need this program.
//
// # Steps
//
//  1. Recover: end what an earlier transaction left; see below.
//  2. Assess: does the running daemon obey the directory already? If not: which unit and which configuration is it, what is
//     the smallest edit, does the unit's own binary load it and nothing else differ, and is the node fit and quiet? Every
//     answer is a Check. One that refuses or defers ends it here, with nothing touched.
//  3. Wait for the leave to restart (Config.Slot), and assess again.
//  4. Note everything in the journal, and keep the old configuration in a file of its own, read back.
//  5. Install the boot unit, for a reboot in the middle, and write its marker.
//  6. Arm the rescue: a timer of systemd's that restores the old configuration and restarts the daemon, unless it is called
//     off. It waits for longer than all that follows may take.
//  7. Look once more at unit, what goes down with it, shims and containers: reading the units anew in step 5 may have changed
//     them.
//  8. See that the rescue waits, and put the new configuration in its place, by one rename.
//  9. Restart the unit and await the job's own result, which is believed only when it is bad. Then wait for CRI.
//  10. Verify: the invocation is a new one, the configuration still ours, units that went down too are up, every task has the
//     process that it had or has ended by itself, and a probe arrives. Watch all that for the soak time.
//  11. Remove the marker, call the rescue off, and see that it has not acted. Forget the transaction.
//
// When 8 to 10 fail, the old configuration is put back byte for byte from the journal, the daemon restarted unless it never
// read the new one, units that went down are started, and the rescue is called off. The configuration is not tried again,
// until it, its file or containerd's version is another one. Where the daemon does not work with the old one either,
// hotplate does not touch it any more.
//
// What was measured on real nodes, and stands behind the order of steps, is in docs/restart.md; what becomes of each fault
// in docs/restart-faults.md, which a run of the tests writes.
//
// # What a crash leaves
//
// Until 6, a journal and a backup. From 6 on, a rescue that acts by itself: the node heals within its delay whatever
// becomes of this program. The next Run or Recover reads the journal, and believes the disk and systemd: is the old
// configuration in its place, or the new one, or somebody else's; has the rescue acted; has the daemon been restarted?
//
//	old, rescue waits                  nothing was begun: it is called off
//	old, rescue has acted              rolled back by the node; not tried again, if the new one may have been in its place
//	new, daemon not restarted          the old one is put back, no restart is needed
//	new, daemon restarted              verified to its end, or rolled back
//	new, after a reboot                the same; the boot unit had nothing to do, or could not
//	old, after a reboot                rolled back by the boot unit
//	somebody else's                    theirs stays if the daemon works, else it is kept aside and the old one put back
//
// Which containers the restart has ended is then not known any more, as others come and go meanwhile; it is not asked. The
// rescue puts the old configuration in the place of somebody else's too, which it keeps beside it.
//
// After a reboot in the middle the boot unit restores the old configuration before containerd starts, if the new one is still
// as it was written.
//
// # What Uninstall puts back
//
// A transaction that ends well keeps what the configuration was before hotplate's first change of it (originals.json, for root
// only). Uninstall puts that back by one rename and restarts nothing: until its next start containerd reads the hosts
// directory, which is as it was, too. A file that somebody has changed since is theirs, and what it was before is kept in
// original-NAME.
//
// # Without systemd
//
// Where something else starts containerd again when it ends (package supervised), nothing can be armed: steps 5 and 6 are left
// out, and a crash leaves what it leaves until the next Run or Recover, which goes by the journal, the disk and the daemon. That
// has to be allowed (Config.WithoutRescue).
//
// # What may go wrong all the same
//
// A pod that the kubelet stops in the moment of the restart looks like one that the restart has killed: a good configuration
// is taken back for it.
//
// CRI does not show everything: a pod that is being created, or stopped, for which containerd has no record yet, is
// interrupted, and the kubelet has to begin anew. A disk that loses what was synced, and a backup that is damaged after it
// was read back while this program dies too, leave the new configuration, which has passed the preflight.
package restart
