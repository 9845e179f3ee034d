// Snowflake ids with JDBC. DATABASE_URL is a JDBC URL of a database with ../schema.sql in it.
//
//     java -cp postgresql.jar Example.java tour     what docs/COOKBOOK.md shows; prints what it got
//     java -cp postgresql.jar Example.java retry    one order, however often it takes; prints why it tried again

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

public class Example {
    static final String URL = System.getenv("DATABASE_URL");

    /** What passes by itself: see ../psycopg/example.py. 08...: the connection was lost, or none was made. */
    static final Set<String> PASSES = Set.of(
            "40001", "40P01", "55P03", "58000", "25006", "57P01", "57P02", "57P03", "08001", "08003", "08006");

    /** The server makes the key; the driver asks for it with RETURNING. */
    static long one(Connection connection) throws SQLException {
        String insert = "INSERT INTO orders (customer) VALUES (?)";
        try (PreparedStatement statement = connection.prepareStatement(insert, new String[] {"id"})) {
            statement.setString(1, "Ada");
            statement.executeUpdate();
            return keys(statement.getGeneratedKeys()).get(0);
        }
    }

    /** Many rows in one round trip, with their keys. */
    static List<Long> bulk(Connection connection) throws SQLException {
        Object[] customers = IntStream.range(0, 1000).mapToObj(number -> "customer " + number).toArray();
        String insert = "INSERT INTO orders (customer) SELECT unnest(?) RETURNING id";
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
            statement.setArray(1, connection.createArrayOf("text", customers));
            return keys(statement.executeQuery());
        }
    }

    /** A block of keys ahead. Hibernate's sequence generators call nextval: give them none, assign these. */
    static List<Long> block(Connection connection, int count) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT snowflake_batch(?)")) {
            statement.setInt(1, count);
            return keys(statement.executeQuery());
        }
    }

    /** All objects refer to each other before a row is written; reWriteBatchedInserts makes one INSERT of a batch. */
    static List<Long> graph(Connection connection) throws SQLException {
        List<Long> keys = block(connection, 4);
        connection.setAutoCommit(false);
        try (PreparedStatement order = connection.prepareStatement("INSERT INTO orders VALUES (?, ?)");
                PreparedStatement line = connection.prepareStatement("INSERT INTO lines VALUES (?, ?, ?)")) {
            order.setLong(1, keys.get(0));
            order.setString(2, "Grace");
            order.executeUpdate();
            for (long key : keys.subList(1, keys.size())) {
                line.setLong(1, key);
                line.setLong(2, keys.get(0));
                line.setString(3, "product " + key);
                line.addBatch();
            }
            line.executeBatch();
            connection.commit();
        } catch (SQLException error) {
            connection.rollback();
            throw error;
        } finally {
            connection.setAutoCommit(true);
        }
        return keys;
    }

    /** The newest first; the last key of a page is where the next one begins. */
    static List<List<Long>> pages(Connection connection, int size) throws SQLException {
        List<List<Long>> pages = new ArrayList<>();
        String query = "SELECT id, customer FROM orders WHERE id < ? ORDER BY id DESC LIMIT ?";
        try (PreparedStatement statement = connection.prepareStatement(query)) {
            for (long last = Long.MAX_VALUE; ; ) {
                statement.setLong(1, last);
                statement.setInt(2, size);
                List<Long> page = keys(statement.executeQuery());
                if (page.isEmpty()) {
                    return pages;
                }
                pages.add(page);
                last = page.get(page.size() - 1);
            }
        }
    }

    /** What has come behind a key, but for what is so new that a smaller key may yet be committed. */
    static List<Long> follow(Connection connection, long last, String settled) throws SQLException {
        String query = "SELECT id FROM orders"
                + " WHERE id > ? AND id < snowflake_lower_bound(now() - ?::interval) ORDER BY id LIMIT 1000";
        try (PreparedStatement statement = connection.prepareStatement(query)) {
            statement.setLong(1, last);
            statement.setString(2, settled);
            return keys(statement.executeQuery());
        }
    }

    /** What a reader misses who asks for all keys behind the last one, and who waits does not. */
    static String late(Connection connection) throws SQLException {
        long begin = pages(connection, 1).get(0).get(0);
        long slow;
        long fast;
        List<Long> seen;
        List<Long> waited;
        try (Connection other = DriverManager.getConnection(URL)) {
            other.setAutoCommit(false);
            slow = one(other);
            fast = one(connection);
            seen = behind(connection, begin);
            waited = follow(connection, begin, "1 minute");
            other.commit();
        }
        seen.addAll(behind(connection, seen.get(seen.size() - 1)));
        List<Long> followed = List.of();
        while (!followed.contains(fast)) {
            // Nobody else writes here: all has settled as soon as its time is over.
            followed = follow(connection, begin, "0");
        }
        return "{\"keys\": " + texts(List.of(slow, fast)) + ", \"naive\": " + texts(seen)
                + ", \"waited\": " + texts(waited) + ", \"followed\": " + texts(followed) + "}";
    }

    static List<Long> behind(Connection connection, long last) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("SELECT id FROM orders WHERE id > ? ORDER BY id")) {
            statement.setLong(1, last);
            return keys(statement.executeQuery());
        }
    }

    /** What is done in a transaction. */
    interface Work<T> {
        T in(Connection connection) throws SQLException;
    }

    /** A whole transaction, and again where what has stopped it passes by itself. */
    static <T> T withRetries(Work<T> work) throws SQLException, InterruptedException {
        int attempts = 10;
        for (int attempt = 0; ; attempt++) {
            try (Connection connection = DriverManager.getConnection(URL)) {
                connection.setAutoCommit(false);
                T done = work.in(connection);
                connection.commit();
                return done;
            } catch (SQLException error) {
                if (!PASSES.contains(error.getSQLState()) || attempt == attempts - 1) {
                    throw error;
                }
                System.out.println("{\"retry\": \"" + error.getSQLState() + "\"}");
            }
            Thread.sleep(Math.min(100L << attempt, 5000));
        }
    }

    /** With the key made first, a commit whose answer was lost is found instead of made twice. */
    static long retry() throws SQLException, InterruptedException {
        long key = withRetries(connection -> block(connection, 1)).get(0);
        return withRetries(connection -> {
            String insert = "INSERT INTO orders VALUES (?, ?) ON CONFLICT (id) DO NOTHING";
            try (PreparedStatement statement = connection.prepareStatement(insert)) {
                statement.setLong(1, key);
                statement.setString(2, "Barbara");
                statement.executeUpdate();
                return key;
            }
        });
    }

    static List<Long> keys(ResultSet rows) throws SQLException {
        List<Long> keys = new ArrayList<>();
        while (rows.next()) {
            keys.add(rows.getLong(1));
        }
        return keys;
    }

    /** As strings: JavaScript would round the numbers. (With Jackson: ToStringSerializer for the key.) */
    static String texts(List<Long> keys) {
        return keys.stream().map(key -> "\"" + key + "\"").collect(Collectors.joining(", ", "[", "]"));
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("retry")) {
            System.out.println("{\"key\": \"" + retry() + "\"}");
            return;
        }
        try (Connection connection = DriverManager.getConnection(URL)) {
            long first = one(connection);
            String bulk = texts(bulk(connection));
            String graph = texts(graph(connection));
            String pages = pages(connection, 500).stream().map(Example::texts).collect(Collectors.joining(", ", "[", "]"));
            String json = "{\\\"id\\\": \\\"" + first + "\\\", \\\"customer\\\": \\\"Ada\\\"}";
            System.out.println("{\"one\": \"" + first + "\", \"bulk\": " + bulk + ", \"graph\": " + graph
                    + ", \"pages\": " + pages + ", \"late\": " + late(connection) + ", \"json\": \"" + json + "\"}");
        }
    }
}
