# Snowflake ids with Active Record. DATABASE_URL names a database with extension snowflake_id.
#
#     ruby example.rb tour     what docs/COOKBOOK.md shows; prints what it got
#     ruby example.rb retry    one order, however often it takes; prints why it tried again
require "active_record"
require "json"
require "stringio"

ActiveRecord::Base.establish_connection(ENV.fetch("DATABASE_URL"))

class Order < ActiveRecord::Base
  has_many :lines
end

class Line < ActiveRecord::Base
  belongs_to :order
end

# Loads the schema; what db:schema:dump writes of it.
def migrate
  ActiveRecord::Schema.verbose = false
  load File.join(__dir__, "schema.rb")
  dump = StringIO.new
  ActiveRecord::SchemaDumper.dump(ActiveRecord::Base.connection, dump)
  dump.string
end

# The server makes the key, and RETURNING brings it.
def one
  Order.create!(customer: "Ada").id
end

# Many rows in one statement, with their keys.
def bulk
  rows = Array.new(1000) { |number| { customer: "customer #{number}" } }
  Order.insert_all!(rows, returning: :id).rows.flatten
end

# A block of keys ahead.
def keys(count)
  ActiveRecord::Base.connection.select_values("SELECT snowflake_batch(#{Integer(count)})")
end

# All objects refer to each other before a row is written; two statements write them.
def graph
  first, *others = block = keys(4)
  lines = others.map { |key| { id: key, order_id: first, product: "product #{key}" } }
  Order.transaction do
    Order.insert_all!([{ id: first, customer: "Grace" }])
    Line.insert_all!(lines)
  end
  block
end

# The newest first; the last key of a page is where the next one begins.
def pages(size)
  pages = []
  last = 2**63 - 1
  until (page = Order.where("id < ?", last).order(id: :desc).limit(size).to_a).empty?
    pages << page
    last = page.last.id
  end
  pages
end

# What has come behind a key, but for what is so new that a smaller key may yet be committed.
def follow(last, settled = "1 minute")
  bound = "id > ? AND id < snowflake_lower_bound(now() - ?::interval)"
  Order.where(bound, last, settled).order(:id).limit(1000).ids
end

# What a reader misses who asks for all keys behind the last one, and who waits does not.
def late
  start = Order.maximum(:id)
  naive = ->(last) { Order.where("id > ?", last).order(:id).ids }
  slow = fast = nil
  seen = waited = []
  Order.transaction do
    slow = one
    # Another thread has another connection.
    Thread.new do
      Order.connection_pool.with_connection do
        fast = one
        seen = naive.call(start)
        waited = follow(start)
      end
    end.join
  end
  seen += naive.call(seen.last)
  followed = []
  # Nobody else writes here: all has settled as soon as its time is over.
  followed = Order.uncached { follow(start, "0") } until followed.include?(fast)
  { keys: [slow, fast], naive: seen, waited: waited, followed: followed }
end

# As strings: JavaScript would round the numbers.
def as_json(key)
  order = Order.find(key)
  { id: order.id.to_s, customer: order.customer }.to_json
end

# What passes by itself: see ../psycopg/example.py.
PASSES = %w[40001 40P01 55P03 58000 25006 57P01 57P02 57P03].freeze

# A whole transaction, and again where what has stopped it passes by itself.
def with_retries(attempts = 10)
  attempt = 0
  begin
    Order.transaction { yield }
  rescue ActiveRecord::StatementInvalid, ActiveRecord::ConnectionNotEstablished => error
    # Active Record's errors have pg's as their cause. Without a SQLSTATE the connection was lost.
    sqlstate = error.cause.try(:result)&.error_field(PG::Result::PG_DIAG_SQLSTATE)
    raise unless sqlstate.nil? || PASSES.include?(sqlstate)
    raise if (attempt += 1) == attempts

    puts({ retry: sqlstate }.to_json)
    $stdout.flush
    sleep [0.05 * 2**attempt, 5].min
    ActiveRecord::Base.connection_pool.disconnect! if sqlstate.nil?
    retry
  end
end

# With the key made first, a commit whose answer was lost is found instead of made twice.
def retried
  key, = with_retries { keys(1) }
  with_retries { Order.insert_all([{ id: key, customer: "Barbara" }]) }
  key
end

# All keys in it as strings.
def texts(value)
  case value
  when Hash then value.transform_values { |part| texts(part) }
  when Array then value.map { |part| texts(part) }
  else value.to_s
  end
end

if ARGV[0] == "retry"
  puts({ key: retried.to_s }.to_json)
else
  dump = migrate
  first = one
  result = { one: first, bulk: bulk, graph: graph, pages: pages(500).map { |page| page.map(&:id) }, late: late }
  puts({ **texts(result), dump: dump, json: as_json(first) }.to_json)
end
