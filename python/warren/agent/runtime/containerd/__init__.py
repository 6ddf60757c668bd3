"""containerd as the runtime, through its own v1 gRPC API.

    api        the calls, typed, and what their failures mean
    client     the connection: namespace, deadlines, back-off
    archive    pure: what is in an image archive
    importer   an archive into containerd: content, snapshots, image records
    images     images that are there, and resolving one for a container
    spec       pure: the OCI runtime spec of a container
    rootfs     reading a file of a root file system without mounting it
    events     what happens to tasks, across restarts of containerd
    runtime    `Runtime` over all of these
    refusals   pure: containerd's and runc's words into sentences for people

Everything that is created carries the label ``warren.node`` with this node's id, and only what
carries it is ever touched. A container's snapshot is kept from containerd's collector by the
label ``containerd.io/gc.root`` (one write less than a lease); an import holds a lease.
"""
