# What others install: packages, archives, images; and their tests, which take root and minutes.

.PHONY: all deb dist image test-packages setup-packages

# What pgxnclient calls.
all: build

setup-packages:
	@tools/setup packages

# git archive knows the date of the commit, and nothing of this folder: the same commit is the same file.
dist: ## the archive for PGXN, of the last commit: target/dist/snowflake_id-VERSION.zip
	@mkdir -p target/dist
	git archive --format=zip --prefix=snowflake_id-$(version)/ \
	    -o target/dist/snowflake_id-$(version).zip HEAD

deb: setup-packages ## the Debian package, of the last commit: target/deb/
	@packaging/deb target/deb

image: ## the CloudNativePG extension image, of what is built: target/image/
	@packaging/image '$(package)' "$$($(pg_config) --pkglibdir)" "$$($(pg_config) --sharedir)/extension" $(pg_major)

test-packages: setup-test setup-packages dist ## build packages twice, and install, upgrade and remove them in a clean Debian
	@packaging/test
