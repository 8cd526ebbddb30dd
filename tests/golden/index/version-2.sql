BEGIN TRANSACTION;
CREATE TABLE blob (
	digest VARCHAR NOT NULL,
	size BIGINT NOT NULL,
	state VARCHAR NOT NULL,
	created_at FLOAT NOT NULL,
	PRIMARY KEY (digest)
);
CREATE TABLE change_counter (
	value BIGINT NOT NULL
);
INSERT INTO "change_counter" VALUES(0);
CREATE TABLE edge (
	parent VARCHAR NOT NULL,
	child VARCHAR NOT NULL,
	kind VARCHAR NOT NULL,
	media_type VARCHAR NOT NULL,
	size BIGINT NOT NULL,
	platform VARCHAR NOT NULL,
	PRIMARY KEY (parent, child)
);
CREATE TABLE endpoint_fingerprint (
	endpoint VARCHAR NOT NULL,
	namespace VARCHAR NOT NULL,
	origins VARCHAR NOT NULL,
	account VARCHAR NOT NULL,
	PRIMARY KEY (endpoint)
);
CREATE TABLE lease (
	fill VARCHAR NOT NULL,
	owner VARCHAR NOT NULL,
	address VARCHAR NOT NULL,
	expires_at FLOAT NOT NULL,
	fence BIGINT NOT NULL,
	PRIMARY KEY (fill)
);
CREATE TABLE link (
	endpoint VARCHAR NOT NULL,
	repository VARCHAR NOT NULL,
	digest VARCHAR NOT NULL,
	kind VARCHAR NOT NULL,
	media_type VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at FLOAT NOT NULL,
	pulled_at FLOAT NOT NULL,
	PRIMARY KEY (endpoint, repository, digest, kind)
);
CREATE TABLE negative (
	endpoint VARCHAR NOT NULL,
	repository VARCHAR NOT NULL,
	reference VARCHAR NOT NULL,
	answered_at FLOAT NOT NULL,
	PRIMARY KEY (endpoint, repository, reference)
);
CREATE TABLE pin (
	endpoint VARCHAR NOT NULL,
	repository VARCHAR NOT NULL,
	reference VARCHAR NOT NULL,
	created_at FLOAT NOT NULL,
	PRIMARY KEY (endpoint, repository, reference)
);
CREATE TABLE referrer (
	endpoint VARCHAR NOT NULL,
	repository VARCHAR NOT NULL,
	subject VARCHAR NOT NULL,
	digest VARCHAR NOT NULL,
	artifact_type VARCHAR NOT NULL,
	PRIMARY KEY (endpoint, repository, subject, digest)
);
CREATE TABLE schema_version (
	version INTEGER NOT NULL
);
INSERT INTO "schema_version" VALUES(2);
CREATE TABLE tag (
	endpoint VARCHAR NOT NULL,
	repository VARCHAR NOT NULL,
	tag VARCHAR NOT NULL,
	digest VARCHAR NOT NULL,
	validated_at FLOAT NOT NULL,
	cache_control VARCHAR NOT NULL,
	etag VARCHAR NOT NULL,
	checked_at FLOAT,
	gone_at FLOAT,
	PRIMARY KEY (endpoint, repository, tag)
);
CREATE TABLE upload (
	id VARCHAR NOT NULL,
	endpoint VARCHAR NOT NULL,
	repository VARCHAR NOT NULL,
	file VARCHAR NOT NULL,
	"offset" BIGINT NOT NULL,
	owner VARCHAR NOT NULL,
	started_at FLOAT NOT NULL,
	updated_at FLOAT NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX link_by_digest ON link (digest);
CREATE INDEX tag_by_digest ON tag (endpoint, repository, digest);
CREATE INDEX edge_by_child ON edge (child);
COMMIT;
