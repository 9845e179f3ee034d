# The tables, as db/schema.rb has them and bin/rails db:schema:dump writes them.
ActiveRecord::Schema.define(version: 2026_11_01_000000) do
  create_table "lines", id: :bigint, default: -> { "snowflake_nextval()" }, force: :cascade do |t|
    t.bigint "order_id", null: false
    t.text "product", null: false
    t.index ["order_id"], name: "index_lines_on_order_id"
  end

  create_table "orders", id: :bigint, default: -> { "snowflake_nextval()" }, force: :cascade do |t|
    t.text "customer", null: false
  end

  add_foreign_key "lines", "orders"
end
