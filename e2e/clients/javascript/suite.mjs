// The JavaScript client against a cluster: every verb on every kind, watch, informer, streams.
//
// Told by the environment: KUBECONFIG, NAMESPACE, SAMPLES (a JSON list of objects), APPLY (whether server-side
// apply is served), POD (a pod of the test program that runs in the namespace), CLIENT (where the package is).

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { PassThrough, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.CLIENT}/`);
const k8s = await import(pathToFileURL(require.resolve('@kubernetes/client-node')));

const { NAMESPACE, POD } = process.env;
const APPLY = process.env.APPLY === 'true';
const WAIT = 20_000;

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

/** Rejects when a promise takes too long. */
function soon(what, promise) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`${what}: not so after ${WAIT} ms`)), WAIT);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function refused(code, promise) {
    await assert.rejects(promise, (error) => error.code === code);
}

/** A stream that keeps what is written to it. */
class Text extends Writable {
    text = '';
    _write(chunk, _, done) {
        this.text += chunk;
        this.emit('news');
        done();
    }
    /** Resolves when the text is so. */
    until(isSo) {
        return new Promise((resolve) => {
            const look = () => isSo(this.text) && resolve(this.text);
            this.on('news', look);
            look();
        });
    }
}

async function everyVerb(sample, resource) {
    const { apiVersion, kind } = sample;
    const { name, labels } = sample.metadata;
    const selector = Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(',');
    const spec = structuredClone(sample);
    if (resource.namespaced) spec.metadata.namespace = NAMESPACE;
    const header = { apiVersion, kind, metadata: { name, namespace: spec.metadata.namespace } };
    const list = () => objects.list(apiVersion, kind, spec.metadata.namespace, undefined, undefined, undefined,
        undefined, selector);

    // Watched from before it is there.
    const before = await list();
    assert.equal(before.items.length, 0);
    const root = apiVersion.includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
    const scope = resource.namespaced ? `/namespaces/${NAMESPACE}` : '';
    const seen = [];
    let abort;
    const gone = new Promise((resolve, reject) => {
        new k8s.Watch(config).watch(`${root}${scope}/${resource.name}`,
            { labelSelector: selector, resourceVersion: before.metadata.resourceVersion },
            (phase, object) => {
                assert.equal(object.metadata.name, name);
                seen.push(phase);
                if (phase === 'DELETED') resolve();
            },
            (error) => error && error.name !== 'AbortError' && reject(error),
        ).then((controller) => { abort = controller; }, reject);
    });

    const made = await objects.create(spec);
    assert.ok(made.metadata.uid);
    await refused(409, objects.create(spec));
    const annotated = (word) => ({ ...header, metadata: { ...header.metadata, annotations: { [word]: '1' } } });
    const words = ['merge', 'strategic'];
    const patch = (body, strategy, ...manager) =>
        objects.patch(body, undefined, undefined, manager[0], manager[1], strategy);
    await patch(annotated('merge'), k8s.PatchStrategy.MergePatch);
    await patch(annotated('strategic'), k8s.PatchStrategy.StrategicMergePatch);
    if (APPLY) {
        await patch(annotated('apply'), k8s.PatchStrategy.ServerSideApply, 'suite', true);
        words.push('apply');
    }
    const got = await objects.read(header);
    for (const word of words) assert.equal(got.metadata.annotations[word], '1', word);
    // Others may change an object meanwhile, a node's conditions for instance: an update without a version.
    // Leases are what clients compete for: they want to know which version was read.
    if (kind !== 'Lease') delete got.metadata.resourceVersion;
    got.metadata.labels.replaced = 'yes';
    assert.equal((await objects.replace(got)).metadata.labels.replaced, 'yes');
    assert.equal((await list()).items.length, 1);
    await objects.delete(header, undefined, undefined, 0);
    await soon(`${kind} is deleted`, gone);
    abort?.abort();
    assert.ok(seen[0] === 'ADDED' && seen.includes('MODIFIED'), seen.join());
    await refused(404, objects.read(header));
    console.log(`${apiVersion} ${kind}: create delete get list patch update watch`);
}

async function informer() {
    const labelSelector = 'suite=informer';
    const list = () => core.listNamespacedConfigMap({ namespace: NAMESPACE, labelSelector });
    const path = `/api/v1/namespaces/${NAMESPACE}/configmaps`;
    const cache = k8s.makeInformer(config, path, list, labelSelector);
    const seen = (verb) => new Promise((resolve) => cache.on(verb, resolve));
    const [added, updated, deleted] = ['add', 'update', 'delete'].map(seen);
    await cache.start();
    const metadata = { name: 'informer', labels: { suite: 'informer' } };
    await core.createNamespacedConfigMap({ namespace: NAMESPACE, body: { metadata, data: { n: '1' } } });
    assert.equal((await soon('added', added)).data.n, '1');
    const body = [{ op: 'replace', path: '/data/n', value: '2' }];
    await core.patchNamespacedConfigMap({ name: 'informer', namespace: NAMESPACE, body },
        k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch));
    assert.equal((await soon('updated', updated)).data.n, '2');
    assert.equal(cache.get('informer', NAMESPACE).data.n, '2');
    await core.deleteCollectionNamespacedConfigMap({ namespace: NAMESPACE, labelSelector });
    await soon('deleted', deleted);
    await cache.stop();
}

/** A watch as a browser has it. */
async function watchOverWebSocket() {
    const WebSocket = require('ws');
    const options = {};
    await config.applyToHTTPSOptions(options);
    const server = config.getCurrentCluster().server.replace(/^http/, 'ws');
    const query = 'watch=true&labelSelector=suite%3Dsocket';
    const path = `/api/v1/namespaces/${NAMESPACE}/configmaps?${query}`;
    // It fails unless one of the protocols that it names is chosen.
    const socket = new WebSocket(`${server}${path}`, ['base64.binary.k8s.io'], options);
    const events = [];
    const told = new Promise((resolve, reject) => {
        socket.on('error', reject);
        socket.on('message', (message) => {
            events.push(JSON.parse(message));
            if (events.length === 2) resolve();
        });
    });
    await soon('the socket is open', new Promise((resolve, reject) => {
        socket.on('open', resolve);
        socket.on('error', reject);
    }));
    const metadata = { name: 'socket', labels: { suite: 'socket' } };
    await core.createNamespacedConfigMap({ namespace: NAMESPACE, body: { metadata } });
    await core.deleteNamespacedConfigMap({ name: 'socket', namespace: NAMESPACE });
    await soon('the socket tells', told);
    assert.deepEqual(events.map((event) => event.type), ['ADDED', 'DELETED']);
    assert.equal(events[0].object.metadata.name, 'socket');
    socket.close();
}

/** Asks a pod of the test program for its name, over a forwarded port. */
async function forward(pod, port) {
    const [answer, input] = [new Text(), new PassThrough()];
    const forwarded = await new k8s.PortForward(config).portForward(NAMESPACE, pod, [port], answer, null, input);
    input.write('GET /hostname HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    await soon('the forwarded port answers', answer.until((text) => text.includes(`\n${pod}\n`)));
    forwarded.close();
}

/** Proxies to a Service, and to the pod behind it; a forwarded port to what the Service leads to. */
async function throughService() {
    const [name, selector] = ['front', { suite: 'front' }];
    const spec = { selector, ports: [{ name: 'http', port: 80, targetPort: 8080 }] };
    await core.createNamespacedService({ namespace: NAMESPACE, body: { metadata: { name }, spec } });
    const get = (service, path = 'hostname') =>
        core.connectGetNamespacedServiceProxyWithPath({ namespace: NAMESPACE, name: service, path });
    // It selects nothing yet.
    await refused(503, get(`${name}:http`));

    let abort;
    const endpoint = new Promise((resolve, reject) => {
        const look = (_, slice) => {
            const ready = (slice.endpoints ?? []).find((one) => one.conditions.ready);
            if (ready) resolve({ pod: ready.targetRef.name, port: slice.ports[0].port });
        };
        new k8s.Watch(config).watch(`/apis/discovery.k8s.io/v1/namespaces/${NAMESPACE}/endpointslices`,
            { labelSelector: `kubernetes.io/service-name=${name}` }, look,
            (error) => error && error.name !== 'AbortError' && reject(error),
        ).then((controller) => { abort = controller; }, reject);
    });
    await core.patchNamespacedPod({ name: POD, namespace: NAMESPACE, body: { metadata: { labels: selector } } },
        k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch));
    const { pod, port } = await soon('the Service has an endpoint', endpoint);
    abort?.abort();
    assert.deepEqual({ pod, port }, { pod: POD, port: 8080 });

    for (const way of [`${name}:http`, `${name}:80`, `http:${name}:http`]) {
        assert.equal(await get(way), `${POD}\n`, way);
    }
    await refused(404, get(`${name}:http`, 'nowhere'));
    await refused(503, get(`${name}:81`));
    const direct = { namespace: NAMESPACE, name: `${POD}:8080`, path: 'hostname' };
    assert.equal(await core.connectGetNamespacedPodProxyWithPath(direct), `${POD}\n`);
    await forward(pod, port);
    await core.deleteNamespacedService({ namespace: NAMESPACE, name });
}

async function streams(subresources) {
    const log = await core.readNamespacedPodLog({ name: POD, namespace: NAMESPACE, tailLines: 10 });
    assert.ok(log, 'the log is empty');
    const followed = new Text();
    const following = await new k8s.Log(config).log(NAMESPACE, POD, 'main', followed, { follow: true });
    await soon('the log is followed', followed.until((text) => text.length > 0));
    following.abort();

    const exec = new k8s.Exec(config);
    const run = async (command, input) => {
        const [out, problems] = [new Text(), new Text()];
        const status = await soon(command.join(' '), new Promise((resolve, reject) => {
            const stdin = input === undefined ? null : new PassThrough();
            exec.exec(NAMESPACE, POD, 'main', command, out, problems, stdin, false, resolve).then(
                () => stdin?.end(input), reject);
        }));
        return { out: out.text, status };
    };
    const said = await run(['/testserver', 'echo', 'hello', 'javascript']);
    assert.equal(said.out, 'hello javascript\n');
    assert.equal(said.status.status, 'Success');
    const ended = await run(['/testserver', 'exit', '3']);
    assert.equal(ended.status.details.causes[0].message, '3');

    if (subresources.has('pods/portforward')) await forward(POD, 8080);
    if (subresources.has('pods/attach')) {
        const attach = new k8s.Attach(config);
        const socket = await attach.attach(NAMESPACE, POD, 'main', new Text(), new Text(), null, false);
        socket.close();
    }
}

for (const sample of JSON.parse(readFileSync(process.env.SAMPLES))) {
    await everyVerb(sample, await objects.resource(sample.apiVersion, sample.kind));
}
await informer();
await watchOverWebSocket();
const { resources } = await core.getAPIResources();
await streams(new Set(resources.map((resource) => resource.name)));
await throughService();
// The client keeps connections open for later.
process.exit(0);
